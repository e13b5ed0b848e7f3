"""Scattered batches: columns as a list of buffers, each of which may lie anywhere, and back to columns.

Buffers are in the order of Arrow's IPC format: columns depth first, of each its validity before its values. The layout
of the description is in `docs/protocol.md`. Knows nothing of sockets or segments.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

_COUNTS = struct.Struct("<II")
_NODE = struct.Struct("<QQ")
_PLACE = struct.Struct("<QQII")


class Holder(enum.IntEnum):
    """What a buffer lies in."""

    FRAME = 0
    SENDER = 1
    RECEIVER = 2


class Place(NamedTuple):
    """Where a buffer lies: in a segment that `holder` has announced, or behind the description in the frame."""

    offset: int
    length: int
    segment: int
    holder: int


class Parts(NamedTuple):
    """A batch that was taken apart: rows and nulls of each array, and the buffers."""

    nodes: list[tuple[int, int]]
    buffers: list[pa.Buffer]


def take_apart(batch: pa.RecordBatch) -> Parts | None:
    """The parts of a batch, without a copy of what is large; `None` if a column has a type that is not known here."""
    parts = Parts([], [])
    for column in batch.columns:
        if not _take(column, parts):
            return None
    return parts


def put_together(schema: pa.Schema, nodes: Iterable[tuple[int, int]], buffers: Iterable[pa.Buffer]) -> pa.RecordBatch:
    """The batch that the parts make."""
    nodes, buffers = iter(nodes), iter(buffers)
    return pa.RecordBatch.from_arrays([_array(field.type, nodes, buffers) for field in schema], schema=schema)


def describe(nodes: list[tuple[int, int]], places: list[Place]) -> bytes:
    """The description of a scattered batch, as it travels in a frame."""
    return b"".join(
        [
            _COUNTS.pack(len(nodes), len(places)),
            *(_NODE.pack(*node) for node in nodes),
            *(_PLACE.pack(*place) for place in places),
        ]
    )


def read_description(data: bytes) -> tuple[list[tuple[int, int]], list[Place], int]:
    """Nodes, places, and where in `data` the buffers begin that travel in the frame."""
    nodes, places = _COUNTS.unpack_from(data)
    places_at = _COUNTS.size + nodes * _NODE.size
    end = places_at + places * _PLACE.size
    read = [Place(*fields) for fields in _PLACE.iter_unpack(data[places_at:end])]
    return list(_NODE.iter_unpack(data[_COUNTS.size : places_at])), read, end


def _take(array: pa.Array, parts: Parts) -> bool:
    kind = array.type
    if pa.types.is_null(kind):
        parts.nodes.append((len(array), len(array)))
        return True
    parts.nodes.append((len(array), array.null_count))
    parts.buffers.append(_validity(array))
    if pa.types.is_struct(kind):
        return all([_take(array.field(index), parts) for index in range(kind.num_fields)])
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        return _take(array.values.slice(array.offset * size, len(array) * size), parts)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        _take_offsets(array, parts)
        return _take(array.values, parts)
    if pa.types.is_string(kind) or pa.types.is_binary(kind) or _is_large(kind):
        end = _take_offsets(array, parts)
        parts.buffers.append(_cut(array.buffers()[2], 0, end))
        return True
    if pa.types.is_boolean(kind):
        parts.buffers.append(_bits(array, 1))
        return True
    if pa.types.is_dictionary(kind) or kind.num_buffers != 2:
        return False
    try:
        width = kind.byte_width
    except ValueError:  # It has none.
        return False
    parts.buffers.append(_cut(array.buffers()[1], array.offset * width, len(array) * width))
    return True


def _is_large(kind: pa.DataType) -> bool:
    return bool(pa.types.is_large_string(kind) or pa.types.is_large_binary(kind))


def _take_offsets(array: pa.Array, parts: Parts) -> int:
    """Takes the offsets of text or lists; returns the last one."""
    width = 8 if _is_large(array.type) or pa.types.is_large_list(array.type) else 4
    offsets = _cut(array.buffers()[1], array.offset * width, (len(array) + 1) * width)
    parts.buffers.append(offsets)
    return int.from_bytes(memoryview(offsets)[-width:], "little")


def _validity(array: pa.Array) -> pa.Buffer:
    """Bits that tell which values are there; nothing where all are."""
    return _bits(array, 0) if array.null_count > 0 else _NOTHING


def _bits(array: pa.Array, index: int) -> pa.Buffer:
    if array.offset % 8 != 0:  # Put together with nothing, it has bits of its own that begin with the first.
        array = pa.concat_arrays([array, array.slice(0, 0)])
    return _cut(array.buffers()[index], array.offset // 8, (len(array) + 7) // 8)


_NOTHING = pa.py_buffer(b"")


def _cut(buffer: pa.Buffer | None, start: int, length: int) -> pa.Buffer:
    return _NOTHING if buffer is None else buffer.slice(start, length)


def _array(kind: pa.DataType, nodes: Iterator[tuple[int, int]], buffers: Iterator[pa.Buffer]) -> pa.Array:
    length, nulls = next(nodes)
    if pa.types.is_null(kind):
        return pa.nulls(length)
    validity = next(buffers)
    own: list[pa.Buffer | None] = [validity if validity.size > 0 else None]
    own += [next(buffers) for _ in range(kind.num_buffers - 1)]
    children = [_array(kind.field(index).type, nodes, buffers) for index in range(kind.num_fields)]
    return pa.Array.from_buffers(kind, length, own, nulls, 0, children)
