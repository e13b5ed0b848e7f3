"""A stage without input: a generator, cut into numbered batches, so that a new process can go on for one that died."""

from __future__ import annotations

import collections
import inspect
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from .codecs import Codec
from .codecs.arrow import record_batch
from .codecs.dicts import DictCodec
from .codecs.values import Given
from .errors import SchemaError

_NOTHING = Given(None)


def _nobody() -> None:
    """Tells nobody."""


class Source:
    """Batches 0, 1, 2, ... of what `generate` yields: rows (dicts, or lists of them), or whole batches in any form.

    Rows are gathered until a batch has `batch_rows` of them or about `batch_bytes`; a batch that was yielded whole is
    cut when it is larger. Where the cuts lie depends on what is yielded alone.
    """

    def __init__(
        self,
        generate: Callable[[], Any],
        codec: Codec,
        declared: pa.Schema | None,
        batch_rows: int,
        batch_bytes: int,
        enter_batch: Callable[[int], None],
    ) -> None:
        self._generate = generate
        self._codec = codec
        self._rows_codec = DictCodec(declared)
        self._batch_rows = max(1, batch_rows)
        self._batch_bytes = max(1, batch_bytes)
        self._enter_batch = enter_batch
        self._items: Iterator[Any] | None = None
        self._produced = 0
        self._rows: collections.deque[Mapping[Any, Any]] = collections.deque()
        self._batch: pa.RecordBatch | None = None

    def pull(self, sequence: int, caught_up: Callable[[], None] = _nobody) -> tuple[pa.RecordBatch | None, bool]:
        """Batch number `sequence`, and whether it is the last one. Starts again if it has been given out already.

        `caught_up` is called when a source that has started again has made all batches before this one.
        """
        restarted = self._items is None or sequence < self._produced
        if restarted:
            self._restart()
        while True:
            number = self._produced
            if restarted and number == sequence:
                caught_up()
            try:
                batch, end = self._produce(is_wanted=number == sequence)
            except BaseException:
                self._items = None  # A generator that raised is over.
                raise
            if end or number == sequence:
                return batch, end

    def close(self) -> None:
        """Lets the generator clean up."""
        close = getattr(self._items, "close", None)
        self._items = None
        if close is not None:
            close()

    def _restart(self) -> None:
        self._produced = 0
        self._rows.clear()
        self._batch = None
        self._enter_batch(0)
        self._items = _iterate(self._generate())

    def _produce(self, *, is_wanted: bool) -> tuple[pa.RecordBatch | None, bool]:
        self._enter_batch(self._produced)
        batch, end = self._next_batch(is_wanted)
        self._produced += 1
        return (batch if is_wanted else None), end

    def _next_batch(self, is_wanted: bool) -> tuple[pa.RecordBatch | None, bool]:
        """The next batch and whether it is the last one. Rows of a batch that nobody wants are not converted."""
        rows: list[Mapping[Any, Any]] = []
        size = 0
        while len(rows) < self._batch_rows and size < self._batch_bytes:
            if self._rows:
                row = self._rows.popleft()
                rows.append(row)
                size += _weight(row)
            elif self._batch is not None:
                if rows:
                    break
                return self._slice(), False
            elif not self._read():
                return (self._rows_codec.batch_of(rows, _NOTHING) if is_wanted else None), True
        return (self._rows_codec.batch_of(rows, _NOTHING) if is_wanted else None), False

    def _slice(self) -> pa.RecordBatch:
        """Takes as much from the batch at hand as may be in one."""
        batch = self._batch
        assert batch is not None, "only called with a batch at hand"
        row_bytes = max(1, batch.nbytes // max(1, batch.num_rows))
        count = max(1, min(self._batch_rows, self._batch_bytes // row_bytes))
        self._batch = batch.slice(count) if count < batch.num_rows else None
        return batch.slice(0, count)

    def _read(self) -> bool:
        """Takes the next item from the generator; false at its end."""
        assert self._items is not None, "pull starts the generator"
        try:
            item = next(self._items)
        except StopIteration:
            return False
        if (type(item) is dict or isinstance(item, Mapping)) and isinstance(self._codec, DictCodec):
            self._rows.append(dict(item))
        elif isinstance(item, (list, tuple)) and all(isinstance(row, Mapping) for row in item):
            self._rows.extend(dict(row) for row in item)
        elif item is not None:
            self._batch = self._convert(item)
        return True

    def _convert(self, item: Any) -> pa.RecordBatch | None:
        batch = record_batch(item)
        if batch is None and _is_dataframe(item):
            from .codecs.dataframe import DataFrameCodec

            batch = DataFrameCodec().take(item, _NOTHING)
        elif batch is None and isinstance(item, Mapping):
            batch = self._codec.take(item, _NOTHING)
        elif batch is None:
            raise SchemaError(f"a source yields rows (dicts) or batches, and `{type(item).__name__}` is neither")
        return batch if batch is not None and batch.num_rows > 0 else None


def _iterate(result: Any) -> Iterator[Any]:
    if inspect.isawaitable(result) or isinstance(result, AsyncIterable):
        from . import event_loop

        if isinstance(result, AsyncIterable):
            return event_loop.iterate(result)
        result = event_loop.run(event_loop.complete(result))
    if isinstance(result, (Mapping, pa.RecordBatch, pa.Table)) or _is_dataframe(result):
        return iter([result])
    if isinstance(result, (str, bytes)) or not isinstance(result, Iterable):
        raise SchemaError(
            f"a source is a generator, or returns rows or batches; this one returned `{type(result).__name__}`"
        )
    return iter(result)


def _is_dataframe(item: Any) -> bool:
    kind = type(item)
    return kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] == "pandas"


def _weight(value: Any) -> int:
    """About how many bytes a value takes in a batch."""
    kind = type(value)
    # By far the most frequent ones, without the cost of the abstract types below.
    if kind is int or kind is float:
        return 8
    if kind is str:
        return len(value) + 4
    if kind is dict:
        return sum(map(_weight, value.values()))
    if isinstance(value, (str, bytes, bytearray)):
        return len(value) + 4
    if isinstance(value, Mapping):
        return sum(map(_weight, value.values()))
    if isinstance(value, (list, tuple)):
        return 4 + sum(map(_weight, value))
    return int(getattr(value, "nbytes", 8))
