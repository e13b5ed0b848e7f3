"""`as: numpy`: a dict of arrays both ways.

Integers, floats and booleans that contain nulls are masked arrays; times mark null as NaT. Lists of fixed size are
arrays of two dimensions where nothing is null. Text, decimals, times of day, binary and nested values are arrays of
objects, with `None` for null.
Arrays over shared memory are read-only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import SchemaError
from .table import from_columns
from .values import Given, array_of


class ArraysCodec:
    def give(self, batch: pa.RecordBatch) -> tuple[dict[str, Any], Given]:
        given = Given(batch)
        return {name: _numpy(name, given) for name in batch.schema.names}, given

    def take(self, result: Any, given: Given) -> pa.RecordBatch | None:
        if not isinstance(result, Mapping):
            raise SchemaError(f"returned `{type(result).__name__}`, but `as: numpy` gives a dict of arrays")
        columns = {}
        for name, values in result.items():
            if not isinstance(name, str):
                raise SchemaError(f"column names are strings, and {name!r} is not")
            columns[name] = _arrow(name, values, given)
        return from_columns(columns)


def _numpy(name: str, given: Given) -> Any:
    column = given.column(name)
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        if column.null_count == 0:
            return column.to_numpy(zero_copy_only=False)
        zero = pa.scalar(0).cast(kind)
        return np.ma.MaskedArray(
            column.fill_null(zero).to_numpy(zero_copy_only=False), mask=column.is_null().to_numpy(zero_copy_only=False)
        )
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_duration(kind):
        return column.to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(kind) and pa.types.is_primitive(kind.value_type):
        flat = column.flatten()
        if column.null_count == 0 and flat.null_count == 0:
            return flat.to_numpy(zero_copy_only=False).reshape(len(column), kind.list_size)
    return _objects(given.objects(name))


def _objects(values: list[Any]) -> Any:
    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):  # numpy would take lists of one length for a dimension.
        array[index] = value
    return array


def _arrow(name: str, values: Any, given: Given) -> pa.Array:
    if not isinstance(values, np.ndarray):
        values = values if isinstance(values, list) else list(np.atleast_1d(values))
        return array_of(name, values, None, given)
    if values.dtype == object:
        return array_of(name, values.tolist(), None, given)
    try:
        return _with_time_type(_from_numpy(values), given.type_of(name))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise SchemaError(str(error), column=name) from None


def _from_numpy(values: Any) -> pa.Array:
    if values.ndim == 2 and not isinstance(values, np.ma.MaskedArray):
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])
    if isinstance(values, np.ma.MaskedArray):
        return pa.array(values.data, mask=np.ma.getmaskarray(values))
    return pa.array(values)


def _with_time_type(array: pa.Array, before: pa.DataType | None) -> pa.Array:
    """numpy has neither time zones nor dates in milliseconds: a column that had them before has them again."""
    if before is None or not pa.types.is_timestamp(array.type):
        return array
    if pa.types.is_timestamp(before) and before.tz is not None:
        return array.cast(pa.timestamp(array.type.unit, before.tz))
    if pa.types.is_date64(before) and array.type.unit == "ms":
        return array.cast(before)
    return array
