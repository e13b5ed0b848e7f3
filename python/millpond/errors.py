"""Errors as text: what went wrong in user code, for the coordinator to show. Nothing is ever pickled.

Start reading at `report`.
"""

from __future__ import annotations

import importlib
import math
import os
import traceback
from types import TracebackType
from typing import Any

TRACEBACK_LIMIT = 32 * 1024
MESSAGE_LIMIT = 4 * 1024

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_IMPORT_SYSTEM = ("<frozen importlib", os.path.dirname(importlib.__file__) + os.sep)
# A deeper traceback is cut before it is formatted.
_FRAMES_LIMIT = 2_000


# Where users find an error, and so what it is called by.
PUBLIC = "millpond"


class MillpondError(Exception):
    """Base of the errors that millpond raises in a worker."""

    __module__ = PUBLIC


class StageError(MillpondError):
    """A stage cannot be opened: its code, its class or its convention does not fit."""


class NoTerminalError(MillpondError):
    """User code asked for input, and a stage has no terminal."""

    __module__ = PUBLIC


class SharedMemoryError(MillpondError, MemoryError):
    """The system has no room for an output batch in shared memory."""


class Throttled(MillpondError):
    """Raise it when a service asks for fewer calls.

    What the call was for is tried again after `retry_after` seconds (by default after a second, then twice as long each
    time), which costs no attempt. What the stage `uses` by a rate is given out more slowly, until it goes well again.
    After a hundred times in a row for the same rows, the stage has failed.
    """

    __module__ = PUBLIC

    def __init__(self, message: str = "throttled", *, retry_after: float | None = None) -> None:
        if isinstance(retry_after, (str, bool)) or not (retry_after is None or hasattr(retry_after, "__float__")):
            raise TypeError(f"`retry_after` is a number of seconds (int or float), and not {retry_after!r}")
        seconds = None if retry_after is None else float(retry_after)
        if seconds is not None and not 0 <= seconds < math.inf:
            raise ValueError(f"`retry_after` is a number of seconds of 0 or more, and not {retry_after!r}")
        super().__init__(message)
        self.retry_after = seconds


class SchemaError(MillpondError):
    """What a stage returned does not fit its columns. Names the column, and the output's row where one is at fault."""

    __module__ = PUBLIC

    def __init__(self, message: str, *, column: str | None = None, row: int | None = None) -> None:
        place = [f"column `{column}`"] if column is not None else []
        if row is not None:
            place.append(f"row {row + 1} of the result")
        super().__init__(f"{', '.join(place)}: {message}" if place else message)
        self.column = column
        self.row = row


class Rejected(MillpondError):
    """A row is wrong, says the code of a stage (`millpond.reject`). The message is the reason."""

    __module__ = PUBLIC


def report(error: BaseException, row: int | None = None, rows: tuple[int, int] | None = None) -> dict[str, Any]:
    """The text of an `ERROR` frame. Never raises, whatever the exception does when it is looked at."""
    return {
        "type": _safely(lambda: _type_name(type(error)), "Exception"),
        "message": cut_middle(_safely(lambda: str(error), "<the exception has no readable message>"), MESSAGE_LIMIT),
        # That a row is rejected is no accident that one would look for in code.
        "traceback": ""
        if isinstance(error, Rejected)
        else cut_middle(_safely(lambda: _format(error), "<the traceback could not be formatted>"), TRACEBACK_LIMIT),
        "row": row,
        "rows": rows,
        "verdict": _verdict(error),
        "throttled": {"seconds": error.retry_after} if isinstance(error, Throttled) else None,
    }


def _verdict(error: BaseException) -> str:
    if isinstance(error, SchemaError):
        return "schema"
    return "contract" if isinstance(error, Rejected) else "exception"


def told(error: BaseException, row: int) -> dict[str, Any]:
    """The text of a row that is left out, as it has raised `error`, of which nothing is kept."""
    text = report(error, row)
    forget_frames(error)
    return text


def forget_frames(error: BaseException) -> None:
    """Drops the tracebacks of `error` and its causes, and with them the batches that their frames keep alive."""
    seen = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        pending += [current.__cause__, current.__context__]
        current.__traceback__ = None


def cut_middle(text: str, limit: int) -> str:
    """`text`, of which at most `limit` bytes of UTF-8 remain, the first and the last ones. Has no lone surrogates."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return data.decode("utf-8")
    note = f"\n... {len(data) - limit} bytes left out ...\n"
    half = (limit - len(note)) // 2
    return data[:half].decode("utf-8", "ignore") + note + data[-half:].decode("utf-8", "ignore")


def _safely(produce: Any, otherwise: str) -> str:
    try:
        text = produce()
    except BaseException:  # The exception's own code may raise anything at all.
        return otherwise
    return text if isinstance(text, str) else otherwise


def _type_name(kind: type[BaseException]) -> str:
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _format(error: BaseException) -> str:
    first = _first_user_frame(error.__traceback__)
    described = traceback.TracebackException(type(error), error, first, limit=_limit(first), lookup_lines=False)
    _strip_own_frames(described, set())
    return "".join(described.format())


def _first_user_frame(step: TracebackType | None) -> TracebackType | None:
    while step is not None and is_own(step.tb_frame.f_code.co_filename):
        step = step.tb_next
    return step


def _limit(step: TracebackType | None) -> int | None:
    """Keeps the innermost frames of a traceback that is too deep; a shallow one has no limit."""
    depth = 0
    while step is not None and depth <= _FRAMES_LIMIT:
        depth += 1
        step = step.tb_next
    return -_FRAMES_LIMIT if depth > _FRAMES_LIMIT else None


def _strip_own_frames(described: traceback.TracebackException, seen: set[int]) -> None:
    if id(described) in seen:
        return
    seen.add(id(described))
    user_frames = [frame for frame in described.stack if not is_own(frame.filename)]
    described.stack = traceback.StackSummary.from_list(user_frames)
    group: list[traceback.TracebackException] = getattr(described, "exceptions", None) or []
    for linked in (described.__cause__, described.__context__, *group):
        if linked is not None:
            _strip_own_frames(linked, seen)


def is_own(filename: str) -> bool:
    """Whether code is of millpond, or of the import system, and not of the user or a library."""
    return filename.startswith((_PACKAGE, *_IMPORT_SYSTEM))
