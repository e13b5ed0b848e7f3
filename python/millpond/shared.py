"""What all workers of a run look up: `millpond.shared["prices"]`. Once in memory, and mapped read-only by whoever asks.

Start reading at `Shared`; `Built` is the stage that makes an object.
"""

from __future__ import annotations

import mmap
import os
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from . import context
from .errors import StageError, is_own


class Shared(Mapping[str, Any]):
    """The things that are shared, by name: tables as `pyarrow.Table`, and objects. Their arrays cannot be written to.

    Outside a run, `provide` says what there is, so that functions can be unit-tested.
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._reading = threading.RLock()  # Objects may look up others when they are made.
        # What nobody has asked for yet: descriptor, length, and whether it is an object.
        self._given: dict[str, tuple[int, int, bool]] = {}
        # What will be there when all of it is made.
        self._expected: frozenset[str] = frozenset()

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            self._read(name)
        try:
            return self._values[name]
        except KeyError:
            if name in self._expected:
                raise KeyError(
                    f"`{name}` is not there yet: what is under `shared:` is made by this stage, or from what it gives, "
                    "so that the stage does not wait for it"
                ) from None
            known = ", ".join(f"`{one}`" for one in sorted(self)) or "nothing"
            raise KeyError(f"`{name}` is not under `shared:` of this pipeline; there is {known}") from None

    def _read(self, name: str) -> None:
        """Reads what nobody has asked for yet, once for all threads."""
        with self._reading:
            if name not in self._given:
                return
            fd, length, is_object = self._given[name]
            table = _table(mmap.mmap(fd, length, prot=mmap.PROT_READ))
            self._values[name] = _object(table) if is_object else table
            os.close(fd)
            del self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._values, **self._given})

    def __len__(self) -> int:
        return len({**self._values, **self._given})

    def __repr__(self) -> str:
        return f"Shared({sorted(self)})"

    def provide(self, name: str, value: Any) -> None:
        """Gives `value` to code that is tested outside a run."""
        self._values[name] = value

    def reset(self) -> None:
        """Forgets what was provided."""
        self._values.clear()

    def expect(self, names: Iterable[str]) -> None:
        """For the worker only: what will be there for the stages that wait for it."""
        self._expected = frozenset(names)

    def add(self, name: str, fd: int, length: int, *, is_object: bool) -> None:
        """For the worker only: something that was made, as an Arrow file in memory."""
        self._given[name] = (fd, length, is_object)


def _table(memory: mmap.mmap) -> Any:
    import pyarrow as pa

    return pa.ipc.open_file(pa.py_buffer(memory)).read_all()


def _object(table: Any) -> Any:
    """What `Built.pull` has taken apart."""
    # Not the value of the column, which would be a copy.
    buffers = [column.chunk(0).buffers()[2] or b"" for column in table.columns]
    return pickle.loads(buffers[0], buffers=buffers[1:])


shared = Shared()


class Built:
    """A stage that calls a function once and gives the object that it returns, pickled; or, as a `task`, nothing.
    `spec` is the text of an `OPEN` frame, `find` imports what it names."""

    conventions = ("object", "task")
    is_class = False
    at_once = 1
    row: int | None = None

    def __init__(self, spec: Mapping[str, Any], find: Callable[[str, str], Any]) -> None:
        self._spec = spec
        self.name: str = spec["name"]
        self.convention: str = spec["as"]
        self._called = f"{spec['module']}:{spec['function']}"
        self._make = find(spec["module"], spec["function"])
        if not callable(self._make):
            raise StageError(f"`{self._called}` cannot be called")

    def pull(self, sequence: int) -> Any:
        """The object, as a batch of one row: its pickle, and the buffers that are out of it, as those of arrays are."""
        import inspect

        import pyarrow as pa

        context.enter_attempt(self._spec["seed"], self.name, sequence)
        made = self._make(**self._spec["with"])
        if inspect.isawaitable(made):
            from . import event_loop

            made = event_loop.run(event_loop.complete(made))
        if self.convention == "task":
            if inspect.isgenerator(made):
                raise StageError(f"`{self._called}` is a generator, so that nothing was done: a hook calls a function")
            made = None
        if inspect.isgenerator(made):
            raise StageError(
                f"`{self._called}` is a generator: what is shared is what a function returns. "
                "To make a table of its rows, say with `as` what it yields"
            )
        raw: list[Any] = []
        try:
            pickled = pickle.dumps(made, protocol=5, buffer_callback=lambda buffer: raw.append(buffer.raw()))
        except (pickle.PicklingError, TypeError, AttributeError, BufferError) as error:
            if _is_of_user(error):
                raise
            raise StageError(
                f"what `{self._called}` gives cannot be shared, as it cannot be pickled: {error}"
            ) from None
        columns = [_one_value(buffer) for buffer in (pickled, *raw)]
        names = [str(number) for number in range(len(columns))]
        return pa.record_batch(columns, names=names)

    def close(self) -> None:
        """There is nothing to close."""


def _is_of_user(error: BaseException) -> bool:
    """Whether the code of an object has raised, such as its `__reduce__`, and not `pickle` itself."""
    step = error.__traceback__
    while step is not None and is_own(step.tb_frame.f_code.co_filename):
        step = step.tb_next
    return step is not None


def _one_value(data: Any) -> Any:
    """A column of one value, whose bytes are not copied."""
    import pyarrow as pa

    value = pa.py_buffer(data)
    ends = pa.py_buffer(b"".join(end.to_bytes(8, "little") for end in (0, value.size)))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, value])
