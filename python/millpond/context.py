"""What user code can ask of the run it is in: `millpond.params`, `log`, `batch_id` and `worker`.

Outside a run there are no params, the batch is `none/0` and the worker has the id 0, so that functions can be
unit-tested as they are.
"""

from __future__ import annotations

import contextvars
import hashlib
import importlib
import json
import logging
import random
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any


class Params(Mapping[str, Any]):
    """The params of the run, read-only. One object for the life of the process, so that it can be imported by name."""

    def __init__(self) -> None:
        self._values: Mapping[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            known = ", ".join(sorted(self._values)) or "none"
            raise KeyError(f"no param `{name}` in this run; it has: {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Params({self._values!r})"

    def set(self, values: Mapping[str, Any]) -> None:
        """For the worker only: the values that the code at hand sees from now on."""
        self._values = values


class Worker:
    """The worker that runs the code, read-only. One object for the life of the process, so that it can be imported by
    name. What it says depends on timing: it is for logs, paths of scratch files and the like, and not for results."""

    def __init__(self) -> None:
        self._id, self._attempt, self._rows = 0, 1, 0
        self.is_busy = False  # With an attempt; for the log.
        self.stage = -1  # The number of the stage at hand; for the log.
        self._devices: Mapping[str, tuple[str, ...]] = {}

    @property
    def id(self) -> int:
        """The number of the worker, as events and names of logs have it."""
        return self._id

    @property
    def attempt(self) -> int:
        """Which attempt at its rows the one at hand is: 1 for the first."""
        return self._attempt

    @property
    def rows(self) -> int:
        """How many rows the attempt at hand is given; 0 for a source, at the end of keys, and between attempts."""
        return self._rows

    @property
    def devices(self) -> Mapping[str, tuple[str, ...]]:
        """The ids of the units that the worker has for its life, by resource: `{"gpu": ("0",)}`."""
        return self._devices

    def __repr__(self) -> str:
        return f"Worker(id={self._id}, attempt={self._attempt}, rows={self._rows})"

    def start(self, number: int, devices: Mapping[str, Sequence[str]]) -> None:
        """For the template only: which worker this process is, and what it has."""
        self._id = number
        self._devices = types.MappingProxyType({name: tuple(ids) for name, ids in devices.items()})

    def begin(self, attempt: int, rows: int) -> None:
        """For the worker only: what it does next."""
        self._attempt, self._rows = attempt, rows


if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[Any]
else:  # Has no parameters before Python 3.11.
    _StreamHandler = logging.StreamHandler


class _StderrHandler(_StreamHandler):
    """Writes to what `sys.stderr` is at the time, which tests and user code replace."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


# What a record of `logging` begins with on its way to the coordinator. `executor/log.rs` has the same.
_RECORD_SEPARATOR = "\x1e"
# Characters of a record that are told.
_RECORD_SIZE = 16 * 1024


class _RecordHandler(_StderrHandler):
    """Tells the coordinator of records, with where they come from; in one write, so that they stay whole."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self.format(record)
            if sys.stderr is not sys.__stderr__:  # User code wants to have it.
                self.stream.write(f"{record.levelname} {record.name}: {message}\n")
                return
            text = {
                "level": record.levelname,
                "logger": record.name,
                "stage": None if _stage == "none" else _stage,
                "batch": _sequence if worker.is_busy else None,
                "row": row(),
                "message": message[:_RECORD_SIZE],
            }
            self.stream.write(f"{_RECORD_SEPARATOR}{json.dumps(text)}\n")
        except Exception:
            self.handleError(record)


def begin_logging(to_terminal: bool = False) -> None:
    """For the worker only: what any logger and `warnings` say goes to the coordinator, or is text on standard error."""
    handler = _StderrHandler() if to_terminal else _RecordHandler()
    if to_terminal:
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger().handlers = [handler]
    log.handlers = []
    log.propagate = True
    log.setLevel(logging.NOTSET)
    logging.captureWarnings(True)


def set_log_level(word: str) -> None:
    """For the worker only: what is told from here on. What user code has set stays, until a stage has another level."""
    global _level
    if word != _level:
        logging.getLogger().setLevel(word.upper())
        _level = word


def _logger() -> logging.Logger:
    logger = logging.getLogger("millpond")
    if not logger.handlers:
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger


params = Params()
worker = Worker()
log = _logger()
_seed = 0
_stage = "none"
_sequence = 0
_partition: int | None = None
_level = ""


def _no_row() -> int | None:
    return None


_row: Callable[[], int | None] = _no_row
# Of a thread or task that is called for one row, while others are for other rows.
_own_row: contextvars.ContextVar[int | None] = contextvars.ContextVar("row", default=None)


def batch_id() -> str:
    """`stage/sequence` of the batch at hand, and `/partition` in a stage with state: the same for every attempt."""
    return f"{_stage}/{_sequence}" if _partition is None else f"{_stage}/{_sequence}/{_partition}"


def row() -> int | None:
    """Which row of the batch at hand the code is called for, if that is known."""
    if not worker.is_busy:
        return None
    own = _own_row.get()
    return _row() if own is None else own


def here() -> tuple[int, int, int]:
    """Stage, batch and row at hand, by their numbers; -1 for none. For what is printed."""
    if not worker.is_busy:
        return worker.stage, -1, -1
    own = _own_row.get()
    at = _row() if own is None else own
    return worker.stage, _sequence, -1 if at is None else at


def enter_own_row(index: int) -> None:
    """For a thread or task with a context of its own: which row of the batch at hand it is called for."""
    _own_row.set(index)


def enter_batch(seed: int, stage: str, sequence: int, partition: int | None = None) -> None:
    """Names the batch at hand. Its random numbers come from `seed_batch` or `seed_row`."""
    global _seed, _stage, _sequence, _partition
    _seed, _stage, _sequence, _partition = seed, stage, sequence, partition
    enter_rows(_no_row)


def enter_stage(stage: str) -> None:
    """For the worker only: names the stage that is prepared."""
    enter_batch(_seed, stage, 0)


def enter_rows(row: Callable[[], int | None]) -> None:
    """How to find out which row of the batch at hand the code is called for."""
    global _row
    _row = row


def enter_attempt(seed: int, stage: str, sequence: int, partition: int | None = None) -> None:
    """Names the batch at hand and seeds the random generators from it."""
    enter_batch(seed, stage, sequence, partition)
    seed_batch()


def seed_batch() -> None:
    """Seeds the random generators for the batch at hand, so that a retry draws the same numbers."""
    _seed_all("")


def seed_row(number: int) -> None:
    """The same for one row of it, so that it draws the same numbers whatever rows it is run with."""
    _seed_all(f"\0{number}")


def _seed_all(row: str) -> None:
    of_partition = "" if _partition is None else f"\0partition {_partition}"
    digest = hashlib.sha256(f"{_seed}\0{_stage}\0{_sequence}{of_partition}{row}".encode()).digest()
    number = int.from_bytes(digest[:8], "little")
    random.seed(number)
    modules = sys.modules
    if "numpy.random" in modules:
        modules["numpy.random"].seed(number & 0xFFFF_FFFF)
    elif "numpy" in modules:  # It may load this part only when it is used.
        importlib.import_module("numpy.random").seed(number & 0xFFFF_FFFF)
    if "torch" in modules and hasattr(modules["torch"], "manual_seed"):
        modules["torch"].manual_seed(number & 0x7FFF_FFFF_FFFF_FFFF)


def drawn() -> object:
    """Something that differs after random numbers were drawn."""
    states: list[Any] = [random.getstate()]
    modules = sys.modules
    if "numpy.random" in modules:
        name, key, *position = modules["numpy.random"].get_state()
        states.append((name, key.tobytes(), *position))
    if "torch" in modules and hasattr(modules["torch"], "get_rng_state"):
        states.append(bytes(modules["torch"].get_rng_state().tolist()))
    return states
