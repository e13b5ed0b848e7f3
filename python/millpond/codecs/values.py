"""Columns as lists of Python objects, and back.

Python's integers and floats have no width, its decimals no declared scale. So that a column which a function passes on
keeps its Arrow type, `array_of` looks whether all its objects are the very ones that came in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

from ..errors import SchemaError
from .table import cast_array

# Types whose values can be read straight from memory, and how. By id, which is all there is to these types: to hash a
# type takes longer than to read a few values.
_FORMATS = {
    pa.int8().id: "b",
    pa.int16().id: "h",
    pa.int32().id: "i",
    pa.int64().id: "q",
    pa.uint8().id: "B",
    pa.uint16().id: "H",
    pa.uint32().id: "I",
    pa.uint64().id: "Q",
    pa.float32().id: "f",
    pa.float64().id: "d",
}
# What Arrow infers from Python objects anyway.
_INFERRED = {kind.id for kind in (pa.bool_(), pa.int64(), pa.float64(), pa.string(), pa.binary(), pa.date32())}
# Below this many values, finding out how to read a column fast takes longer than reading it.
_FEW = 16
# Columns beyond which rows are not worth the code that makes them.
_MOST_COMPILED = 200
_CONVERSION_ERRORS = (pa.ArrowException, OverflowError, TypeError, ValueError)


def list_of(column: pa.Array) -> list[Any]:
    """The values of a column, `None` for null; several times as fast as `to_pylist` for numbers."""
    count = len(column)
    code = _FORMATS.get(column.type.id) if count >= _FEW else None
    if code is None or column.null_count > 0:
        values: list[Any] = column.to_pylist()
        return values
    width = column.type.bit_width // 8
    start = column.offset * width
    memory: Any = memoryview(column.buffers()[1])
    numbers: list[Any] = memory[start : start + count * width].cast(code).tolist()
    return numbers


class Given:
    """What a function was given: its batch, and the objects made from it. What it returns may contain them."""

    def __init__(self, batch: pa.RecordBatch | None) -> None:
        self._batch = batch
        self._values: dict[str, list[Any]] = {}

    def objects(self, name: str) -> list[Any]:
        """The values of an input column as Python objects. Remembers them in a list that user code does not see."""
        values = list_of(self.column(name))
        self._values[name] = values
        return values

    def remembered(self) -> dict[str, list[Any]]:
        """What `objects` has given, by column."""
        return self._values

    def column(self, name: str) -> pa.Array:
        return self._batch.column(name)  # type: ignore[union-attr]

    def type_of(self, name: str) -> pa.DataType | None:
        if self._batch is None:
            return None
        schema = self._batch.schema
        index = schema.get_field_index(name)
        return schema.field(index).type if index >= 0 else None

    def type_to_keep(self, name: str, values: list[Any]) -> pa.DataType | None:
        """The type of the input column `name` if all `values` are objects of it and inferring would lose it."""
        given = self._values.get(name)
        if given is None:
            return None
        kind = self.column(name).type
        if kind.id in _INFERRED or not set(map(id, given)).issuperset(map(id, values)):
            return None
        return kind


def array_of(name: str, values: list[Any], declared: pa.DataType | None, given: Given) -> pa.Array:
    """The column that `values` make: of the declared type, else of the input's if passed on, else inferred."""
    if declared is not None:
        return _declared_array(name, values, declared)
    before = given.type_to_keep(name, values)
    if before is not None:
        try:
            return _one_array(name, pa.array(values, type=before))
        except _CONVERSION_ERRORS:  # A type that Arrow cannot build from objects.
            pass
    return _converted(name, values, lambda part: pa.array(part))


def columns_of(rows: list[Mapping[Any, Any]], declared: pa.Schema | None, given: Given) -> dict[str, pa.Array]:
    """The columns of rows, in the order in which their names first appear; a name that a row lacks is null in it."""
    columns = _columns_of_like(rows)
    if columns is None:
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
    for name in columns:
        if not isinstance(name, str):
            raise SchemaError(f"column names are strings, and {name!r} is not")
    if declared is None:
        return {name: array_of(name, values, None, given) for name, values in columns.items()}
    undeclared = [name for name in columns if name not in declared.names]
    if undeclared:
        raise SchemaError("is not declared in `returns`", column=undeclared[0])
    nulls: list[Any] = [None] * len(rows)
    return {field.name: array_of(field.name, columns.get(field.name, nulls), field.type, given) for field in declared}


def rows_of(batch: pa.RecordBatch, given: Given) -> Iterator[dict[str, Any]]:
    """The rows of a batch as dicts, made one by one."""
    names = tuple(batch.schema.names)
    if not names:
        return iter([{} for _ in range(batch.num_rows)])
    columns = [given.objects(name) for name in names]
    if len(names) > _MOST_COMPILED:
        return (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))
    return _row_maker(names)(columns)


def as_rows(result: Iterable[Any]) -> list[Mapping[Any, Any]]:
    """Copies of the rows in `result`: user code may go on to change the dict that it has given."""
    rows: list[Mapping[Any, Any]] = []
    for row in result:
        if type(row) is dict:
            rows.append(row.copy())
        elif isinstance(row, Mapping):
            rows.append(dict(row))
        else:
            raise SchemaError(f"each row is a dict, and `{type(row).__name__}` is not")
    return rows


def _columns_of_like(rows: list[Mapping[Any, Any]]) -> dict[Any, list[Any]] | None:
    """The values of the columns if all rows are plain dicts with the same names, as they nearly always are."""
    if set(map(type, rows)) != {dict} or set(map(len, rows)) != {len(rows[0])}:
        return None
    try:
        return {name: [row[name] for row in rows] for name in rows[0]}
    except KeyError:
        return None


@functools.lru_cache(maxsize=64)
def _row_maker(names: tuple[str, ...]) -> Callable[[list[list[Any]]], Iterator[dict[str, Any]]]:
    """A function from columns to rows. A dict display of known names takes a third of the time of `dict(zip(...))`."""
    # The only text from outside is a name, and the `repr` of a string is a literal whatever it holds.
    values = "".join(f"v{number}, " for number in range(len(names)))
    row = ", ".join(f"{name!r}: v{number}" for number, name in enumerate(names))
    maker: Any = eval(f"lambda columns: ({{{row}}} for {values}in zip(*columns, strict=True))")
    return maker  # type: ignore[no-any-return]


def _declared_array(name: str, values: list[Any], declared: pa.DataType) -> pa.Array:
    kinds = set(map(type, values))
    loses = _loss(kinds, declared)
    if loses is not None:
        for row, value in enumerate(values):
            if loses(value):
                raise SchemaError(f"{value!r} is not {declared} without losing something", column=name, row=row)
    if pa.types.is_decimal(declared) and float in kinds:  # As it is written, and not its nearest neighbour in binary.
        values = [Decimal(repr(value)) if isinstance(value, float) else value for value in values]
    try:
        return _one_array(name, pa.array(values, type=declared))
    except _CONVERSION_ERRORS:  # Such as text for a number: Arrow casts what it does not convert.
        return _converted(name, values, lambda part: cast_array(pa.array(part), declared))


def _loss(kinds: set[type], declared: pa.DataType) -> Callable[[Any], bool] | None:
    """What tells of a value that Arrow would make something else of, if values of these kinds may be such."""
    if pa.types.is_integer(declared) and any(issubclass(kind, (float, Decimal)) for kind in kinds):
        return lambda value: isinstance(value, (float, Decimal)) and value == value and value % 1 != 0
    if pa.types.is_boolean(declared) and any(issubclass(kind, (int, float)) for kind in kinds - {bool}):
        return lambda value: isinstance(value, (int, float)) and value not in (0, 1)
    if pa.types.is_date(declared) and any(issubclass(kind, datetime) for kind in kinds):
        return lambda value: isinstance(value, datetime) and value.time() != time()
    return None


def _converted(name: str, values: list[Any], convert: Callable[[list[Any]], pa.Array]) -> pa.Array:
    try:
        return _one_array(name, convert(values))
    except _CONVERSION_ERRORS as error:
        raise SchemaError(str(error), column=name, row=_first_row_that_fails(values, convert)) from None


def _one_array(name: str, converted: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(converted, pa.ChunkedArray):
        raise SchemaError("more than 2 GiB in one batch; return fewer rows at a time", column=name)
    return converted


def _first_row_that_fails(values: list[Any], convert: Callable[[list[Any]], pa.Array]) -> int | None:
    """The first row without which the rows before it convert, found by halving."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        try:
            convert(values[: middle + 1])
            low = middle + 1
        except _CONVERSION_ERRORS:
            high = middle
    return low if low < len(values) else None
