"""`as: pandas`: a DataFrame both ways.

Columns of integers or booleans that contain nulls become pandas' nullable types, never floats or objects; without nulls
they are plain numpy, which more code can work with. Decimals, dates, times, binary and nested values are Python
objects. pandas has no difference between NaN and null, so both come back as null. The index is not part of the result.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa

from ..errors import SchemaError
from .table import from_columns, plain
from .values import Given, array_of

_NULLABLE: dict[pa.DataType, Any] = {
    pa.bool_(): pd.BooleanDtype(),
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
}


class DataFrameCodec:
    def give(self, batch: pa.RecordBatch) -> tuple[pd.DataFrame, Given]:
        given = Given(batch)
        columns = {name: _series(name, given) for name in batch.schema.names}
        # Copies: a DataFrame can be written to, the shared memory below cannot.
        return pd.DataFrame(columns, index=pd.RangeIndex(batch.num_rows), copy=True), given

    def take(self, result: Any, given: Given) -> pa.RecordBatch | None:
        if not isinstance(result, pd.DataFrame):
            raise SchemaError(f"returned `{type(result).__name__}`, but `as: pandas` gives a DataFrame")
        columns: dict[str, pa.Array] = {}
        for position, name in enumerate(result.columns):
            if not isinstance(name, str):
                raise SchemaError(f"column names are strings, and {name!r} is not")
            if name in columns:
                raise SchemaError("is there twice", column=name)
            columns[name] = _array(name, result.iloc[:, position], given)
        return from_columns(columns)


def _series(name: str, given: Given) -> Any:
    column = given.column(name)
    nullable = _NULLABLE.get(column.type)
    if nullable is not None and column.null_count > 0:
        return pd.Series(nullable.__from_arrow__(column))
    if _is_objects(column.type):
        return pd.Series(given.objects(name), dtype=object)
    return column.to_pandas()


def _is_objects(kind: pa.DataType) -> bool:
    return not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_duration(kind)
        or pa.types.is_dictionary(kind)
    )


def _array(name: str, series: pd.Series[Any], given: Given) -> pa.Array:
    if series.dtype == object:
        values = [None if _is_missing(value) else value for value in series.tolist()]
        return array_of(name, values, None, given)
    try:
        array = pa.array(series, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise SchemaError(str(error), column=name) from None
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return _with_text_type(plain(array, name), given.type_of(name))


def _with_text_type(array: pa.Array, before: pa.DataType | None) -> pa.Array:
    """pandas 3 makes all text `large_string`: text is `string` here, or what it was before."""
    if not pa.types.is_large_string(array.type):
        return array
    was_text = before is not None and (pa.types.is_large_string(before) or pa.types.is_string_view(before))
    return array.cast(before if was_text else pa.string())


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)
