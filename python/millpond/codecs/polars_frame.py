"""`as: polars`: a `polars.DataFrame` both ways.

polars has one type of text, of binary data and of lists, where Arrow has several, and no maps, dates in milliseconds
or times of day in seconds. A column that still has the polars type it was given with gets its Arrow type back; any
other has the plain one: `string` for text, `binary`, `list`.
"""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa

from ..errors import SchemaError
from .table import cast, from_columns, plain_type
from .values import Given

# What polars raises for types that it does not have; it panics for decimals of 256 bits.
_REFUSALS = (pl.exceptions.PolarsError, pl.exceptions.PanicException, NotImplementedError, TypeError, ValueError)


class PolarsGiven(Given):
    """What a function was given, with the polars types of its columns."""

    def __init__(self, batch: pa.RecordBatch, frame: pl.DataFrame) -> None:
        super().__init__(batch)
        self.types = frame.schema


class PolarsCodec:
    def give(self, batch: pa.RecordBatch) -> tuple[pl.DataFrame, Given]:
        frame = pl.DataFrame([_series(name, column) for name, column in zip(batch.schema.names, batch, strict=True)])
        return frame, PolarsGiven(batch, frame)

    def take(self, result: Any, given: Given) -> pa.RecordBatch | None:
        if isinstance(result, pl.LazyFrame):
            raise SchemaError("returned a `LazyFrame`, but `as: polars` gives a DataFrame: call its `collect()`")
        if not isinstance(result, pl.DataFrame):
            raise SchemaError(f"returned `{type(result).__name__}`, but `as: polars` gives a DataFrame")
        return from_columns({series.name: _array(series, given) for series in result})


def _series(name: str, column: pa.Array) -> pl.Series:
    try:
        return pl.Series(name, column)
    except _REFUSALS as error:
        raise SchemaError(f"polars cannot hold `{column.type}`: {error}", column=name) from None


def _array(series: pl.Series, given: Given) -> pa.Array:
    if series.dtype == pl.Object:
        raise SchemaError("holds Python objects, which have no type in Arrow", column=series.name)
    try:
        array = series.to_arrow()
    except pa.ArrowException as error:  # Such as for integers of 128 bits.
        raise SchemaError(f"Arrow cannot hold `{series.dtype}`: {error}", column=series.name) from None
    before = given.type_of(series.name)
    is_unchanged = isinstance(given, PolarsGiven) and given.types.get(series.name) == series.dtype
    if before is None or not is_unchanged:
        before = _plain(plain_type(array.type))
    if pa.types.is_map(before):
        return _map(array, before)
    return array if array.type == before else cast(array, before, series.name)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type that a column has unless it had another before."""
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(field) for field in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(_plain_field(kind.value_field))
    return kind


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(_plain(field.type))


def _map(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Lists of pairs as maps, which Arrow does not cast to; or maps, of newer versions of polars."""

    def pair(entry: Any) -> tuple[Any, Any]:
        return entry if isinstance(entry, tuple) else (entry["key"], entry["value"])

    rows = array.to_pylist()
    return pa.array([None if entries is None else [pair(entry) for entry in entries] for entries in rows], kind)
