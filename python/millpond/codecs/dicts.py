"""`as: rows`, a list of dicts both ways. `as: row` gives the same dicts one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from ..errors import SchemaError
from .table import from_columns
from .values import Given, as_rows, columns_of, rows_of


class DictCodec:
    def __init__(self, declared: pa.Schema | None) -> None:
        self._declared = declared

    def give(self, batch: pa.RecordBatch) -> tuple[list[dict[str, Any]], Given]:
        given = Given(batch)
        return list(rows_of(batch, given)), given

    def take(self, result: Any, given: Given) -> pa.RecordBatch | None:
        if isinstance(result, (str, bytes, Mapping)) or not isinstance(result, Iterable):
            raise SchemaError(f"returned `{type(result).__name__}`, but `as: rows` gives a list of dicts")
        if isinstance(result, list) and set(map(type, result)) == {dict}:  # Nobody changes them before they are read.
            return self.batch_of(result, given)
        return self.batch_of(as_rows(result), given)

    def batch_of(self, rows: list[Mapping[Any, Any]], given: Given) -> pa.RecordBatch | None:
        """The batch of `rows`, or `None` if there are none to tell the columns from."""
        if not rows:
            return None
        return from_columns(columns_of(rows, self._declared, given))
