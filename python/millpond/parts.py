"""What a row function gave for some rows of a batch, on its way to the worker that makes one batch of it.

Types are told from all rows of a batch, so rows that are run apart are handed over as Python objects: in one column of
bytes, a pickle for each input row. They come from a worker of the same stage and go to one. For a value that the
function has passed on as it is there is a note of that, as it decides about the column's type.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from .codecs.values import Given
from .errors import SchemaError

# What one call gave: for each port that it gave something for, the rows.
Call = list[tuple[int, list[Mapping[Any, Any]]]]

_SCHEMA = pa.schema([pa.field("call", pa.large_binary(), nullable=False)])


class Own:
    """Stands for the value that the input row has under the same name."""


def pack(calls: Mapping[int, Call], given: Given) -> pa.RecordBatch:
    """One row for each call, in the order of the input rows. `calls` are by the places of those."""
    own = given.remembered()
    packed = [_dumps(_without_own(call, own, index), index) for index, call in calls.items()]
    return pa.RecordBatch.from_arrays([pa.array(packed, _SCHEMA.field(0).type)], schema=_SCHEMA)


def unpack(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.Array]:
    """The input rows, and what the calls on them gave, which `calls` reads."""
    rows = pa.RecordBatch.from_arrays(batch.columns[:-1], schema=pa.schema(list(batch.schema)[:-1]))
    return rows, batch.column(batch.num_columns - 1)


def calls(packed: pa.Array, given: Given) -> Iterator[Call]:
    own = given.remembered()
    for index, data in enumerate(packed):
        call: Call = pickle.loads(data.as_buffer())
        for _, rows in call:
            for row in rows:
                for name, value in row.items():
                    if value is Own:
                        row[name] = own[name][index]  # type: ignore[index]
        yield call


def _without_own(call: Call, own: dict[str, list[Any]], index: int) -> Call:
    def is_own(name: Any, value: Any) -> bool:
        values = own.get(name)
        return values is not None and values[index] is value

    return [
        (port, [{name: Own if is_own(name, value) else value for name, value in row.items()} for row in rows])
        for port, rows in call
    ]


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        return (bytes, (value.tobytes(),)) if isinstance(value, memoryview) else NotImplemented


def _dumps(call: Call, index: int) -> bytes:
    target = io.BytesIO()
    try:
        _Pickler(target, pickle.HIGHEST_PROTOCOL).dump(call)
    except Exception as error:
        raise SchemaError(f"gave a value that cannot be passed on: {error}", row=index) from None
    return target.getvalue()
