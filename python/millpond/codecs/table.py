"""From whatever Arrow data a stage gives to the one record batch that is sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from ..errors import SchemaError


def merge(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch with the rows of all; their schemas may differ in columns, not in the types of one column."""
    try:
        return one_batch(
            pa.concat_tables([pa.Table.from_batches([batch]) for batch in batches], promote_options="default")
        )
    except pa.ArrowInvalid as error:
        raise SchemaError(f"the batches of one result do not fit together: {error}") from None


def one_batch(table: pa.Table) -> pa.RecordBatch:
    columns = []
    for name, column in zip(table.schema.names, table.columns, strict=True):
        combined = column.combine_chunks()
        if isinstance(combined, pa.ChunkedArray):
            raise SchemaError("more than 2 GiB in one batch; return fewer rows at a time", column=name)
        columns.append(combined)
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


def from_columns(columns: dict[str, pa.Array]) -> pa.RecordBatch:
    """A batch of named columns, which must have one length."""
    if not columns:
        raise SchemaError("a result needs at least one column")
    if len({len(column) for column in columns.values()}) > 1:
        described = ", ".join(f"`{name}` has {len(column)}" for name, column in columns.items())
        raise SchemaError(f"all columns need one length: {described}")
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def finish(batch: pa.RecordBatch, declared: pa.Schema | None) -> pa.RecordBatch:
    """What is sent of `batch`: plain columns without metadata, of the declared types if there are any."""
    if not batch.schema.names and batch.num_rows > 0:
        raise SchemaError(f"returned {batch.num_rows} rows without any column; a row needs at least one")
    _check_names(batch.schema.names)
    columns = {name: plain(column, name) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    if declared is not None:
        columns = _declared_columns(columns, declared)
    schema = pa.schema([pa.field(name, column.type) for name, column in columns.items()])
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=schema)


def plain(column: pa.Array, name: str) -> pa.Array:
    """`column` without dictionary encoding and extension types, also inside of lists and structs."""
    target = plain_type(column.type)
    if target.equals(column.type):
        return column
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    return cast(column, target, name)


def plain_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(field) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type), keys_sorted=kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain_field(kind.value_field))
    if pa.types.is_list(kind):
        return pa.list_(_plain_field(kind.value_field))
    return kind


def cast(column: pa.Array, target: pa.DataType, name: str) -> pa.Array:
    """`column` as `target` without loss, or an error that names the column and the row."""
    try:
        return cast_array(column, target)
    except (pa.ArrowException, OverflowError, ValueError) as error:
        raise SchemaError(str(error), column=name, row=_first_row_that_fails(column, target)) from None


def cast_array(column: pa.Array, target: pa.DataType) -> pa.Array:
    """What Arrow's cast does, and integers as decimals wherever the values fit."""
    if pa.types.is_decimal(target) and pa.types.is_integer(column.type):
        # Arrow asks for room for any integer of that width, and looks at the values only between decimals.
        column = column.cast(pa.decimal256(76, target.scale))
    return column.cast(target)


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(plain_type(field.type)).remove_metadata()


def _declared_columns(columns: dict[str, pa.Array], declared: pa.Schema) -> dict[str, pa.Array]:
    for name in columns:
        if name not in declared.names:
            raise SchemaError("is not declared in `returns`", column=name)
    for name in declared.names:
        if name not in columns:
            raise SchemaError("is declared in `returns` but was not returned", column=name)
    return {field.name: cast(columns[field.name], field.type, field.name) for field in declared}


def _check_names(names: Iterable[Any]) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise SchemaError("is there twice", column=name)
        seen.add(name)


def _first_row_that_fails(column: pa.Array, target: pa.DataType) -> int | None:
    """The first row that cannot be cast, found by halving."""
    low, high = 0, len(column)
    while low < high:
        middle = (low + high) // 2
        try:
            cast_array(column.slice(0, middle + 1), target)
            low = middle + 1
        except (pa.ArrowException, OverflowError, ValueError):
            high = middle
    return low if low < len(column) else None
