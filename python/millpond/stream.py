"""`as: stream`: a generator that takes the batches of the stage one by one, and yields batches whenever it likes.

The coordinator gives a batch and waits for what comes of it, the user's code asks for a batch and waits for it: each
wants to be the one that calls. So the code has a thread of its own, and only one of the two runs at any time. Start
reading at `Stream.give`.
"""

from __future__ import annotations

import contextvars
import enum
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from .codecs.arrow import record_batch
from .errors import SchemaError


class _Word(enum.Enum):
    END = "there are no more batches"
    CLOSE = "the worker ends"
    MORE = "the code asks for the next batch"
    OVER = "the code has returned"


class _Closed(BaseException):
    """Leaves the user's code: it is not an error, so `except Exception` lets it pass."""


class Stream:
    """The code of one stage, or of one partition of it, on its way through the batches."""

    def __init__(
        self,
        call: Callable[[Iterator[pa.RecordBatch]], Any],
        by_port: Callable[[Any], Iterable[tuple[int, Any]]] = lambda item: [(0, item)],
    ) -> None:
        """`by_port`: what one thing that the code has yielded has for each port."""
        self._call = call
        self._by_port = by_port
        self._given: queue.SimpleQueue[pa.RecordBatch | _Word] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[_Word | BaseException] = queue.SimpleQueue()
        self._made: list[tuple[int, pa.RecordBatch]] = []
        self._thread: threading.Thread | None = None
        self._is_over = False

    def give(self, batch: pa.RecordBatch) -> list[tuple[int, pa.RecordBatch]]:
        """Gives the code its next batch; what it yields until it asks for the one after that, with its port."""
        return self._exchange(batch)

    def end(self) -> list[tuple[int, pa.RecordBatch]]:
        """Tells the code that there are no more batches; what it yields until it returns."""
        return self._exchange(_Word.END)

    def close(self) -> None:
        """Leaves the code where it waits, so that its `finally` and `with` are done."""
        if self._thread is not None:
            self._exchange(_Word.CLOSE)

    def _exchange(self, given: pa.RecordBatch | _Word) -> list[tuple[int, pa.RecordBatch]]:
        if self._is_over:  # It wants no more.
            return []
        self._given.put(given)
        if self._thread is None:
            # With what is set for this thread: numpy has its allocator there.
            here = contextvars.copy_context()
            self._thread = threading.Thread(target=here.run, args=(self._run,), name="stream", daemon=True)
            self._thread.start()
        answer = self._answers.get()
        self._is_over = answer is not _Word.MORE
        if isinstance(answer, BaseException):
            raise answer
        made, self._made = self._made, []
        return made

    def _run(self) -> None:
        """The life of the thread."""
        try:
            result = self._call(self._batches())
            if isinstance(result, (str, bytes, Mapping, pa.Table, pa.RecordBatch)) or not isinstance(result, Iterable):
                raise SchemaError(f"`as: stream` yields batches; this function returned `{type(result).__name__}`")
            for item in result:
                for port, part in self._by_port(item):
                    self._made.append((port, _batch(part)))
                    del part
                del item  # What is kept here could not be handed on without a copy.
            self._answers.put(_Word.OVER)
        except _Closed:
            self._answers.put(_Word.OVER)
        except BaseException as error:
            self._answers.put(error)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """What the code iterates over."""
        while True:
            given = self._given.get()
            if given is _Word.CLOSE:
                raise _Closed
            if given is _Word.END:
                return
            yield given
            del given  # Or the batch would be kept until the next one comes.
            self._answers.put(_Word.MORE)


def _batch(item: Any) -> pa.RecordBatch:
    batch = record_batch(item)
    if batch is None:
        raise SchemaError(f"yielded `{type(item).__name__}`, but `as: stream` yields record batches or tables")
    return batch
