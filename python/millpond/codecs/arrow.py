"""`as: arrow`: a `RecordBatch` or a `Table` in; a `RecordBatch`, a `Table` or several of them out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from ..errors import SchemaError
from .table import merge, one_batch
from .values import Given


class ArrowCodec:
    def __init__(self, as_table: bool) -> None:
        self._as_table = as_table

    def give(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch | pa.Table, Given]:
        return (pa.Table.from_batches([batch]) if self._as_table else batch), Given(batch)

    def take(self, result: Any, given: Given) -> pa.RecordBatch | None:
        single = record_batch(result)
        if single is not None:
            return single
        if isinstance(result, (str, bytes, Mapping)) or not isinstance(result, Iterable):
            raise _unexpected(result)
        batches = []
        for part in result:
            converted = record_batch(part)
            if converted is None:
                raise _unexpected(part)
            batches.append(converted)
        return merge(batches) if batches else None


def record_batch(value: Any) -> pa.RecordBatch | None:
    """`value` as a batch if it is Arrow data in any form (also of another library), else `None`."""
    if isinstance(value, pa.RecordBatch):
        return value
    if isinstance(value, pa.Table):
        return one_batch(value)
    if hasattr(value, "__arrow_c_stream__") and not isinstance(value, (pa.Array, pa.ChunkedArray)):
        return one_batch(pa.table(value))
    return None


def _unexpected(value: Any) -> SchemaError:
    return SchemaError(f"returned `{type(value).__name__}`, but `as: arrow` gives a RecordBatch, a Table, or several")
