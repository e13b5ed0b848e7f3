"""The type words of `returns`, and the Arrow types that they stand for."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa

from .errors import StageError

_WORDS = {
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
}
_TIMESTAMP = re.compile(r"timestamp\[(?:(s|ms|us|ns)(?:, ?(.+))?|(.+))\]")
_DECIMAL = re.compile(r"decimal\((\d+), ?(-?\d+)\)")
_LIST = re.compile(r"list<(.+)>")


def column_type(word: str) -> pa.DataType:
    """The Arrow type of a type word such as `int64`, `timestamp[UTC]`, `decimal(10,2)` or `list<string>`."""
    word = word.strip()
    if word in _WORDS:
        return _WORDS[word]
    if match := _TIMESTAMP.fullmatch(word):
        unit, zone, bare_zone = match.groups()
        return pa.timestamp(unit or "us", zone or bare_zone)
    if match := _DECIMAL.fullmatch(word):
        precision, scale = map(int, match.groups())
        return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
    if match := _LIST.fullmatch(word):
        return pa.list_(column_type(match.group(1)))
    raise StageError(f"`{word}` is not a column type; the simple ones are {', '.join(_WORDS)}")


def declared_schema(returns: Sequence[Sequence[str]]) -> pa.Schema | None:
    """The schema that `returns` declares, or `None` if it declares nothing."""
    if not returns:
        return None
    return pa.schema([pa.field(name, column_type(word)) for name, word in returns])
