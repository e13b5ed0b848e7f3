"""Rows of a batch that are run apart give, joined, what they give when they are run together."""

from __future__ import annotations

import datetime
import itertools
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import open_text, write_module

from millpond.errors import SchemaError
from millpond.stage import Output, Share, Stage

ROWS = 12
BATCH = pa.record_batch(
    {
        "n": pa.array(range(ROWS), pa.int32()),
        "big": pa.array([value << 40 for value in range(ROWS)], pa.uint64()),
        "f": pa.array([value / 3 for value in range(ROWS)], pa.float32()),
        "s": pa.array([f"row {value}" if value % 4 else None for value in range(ROWS)], pa.large_string()),
        "d": pa.array([Decimal(value) / 4 for value in range(ROWS)], pa.decimal128(9, 3)),
        "t": pa.array([datetime.datetime(2024, 1, 1 + value) for value in range(ROWS)], pa.timestamp("ms")),
        "l": pa.array([[value] * (value % 3) for value in range(ROWS)], pa.list_(pa.int16())),
    }
)

FUNCTIONS = {
    "passes all on": "def f(row): return row",
    "changes some": "def f(row): return {**row, 'n': row['n'] if row['n'] % 5 else -1, 'd': row['d'] or 0}",
    "changes the row itself": "def f(row):\n    row['n'] += 300 if row['n'] > 6 else 0\n    return row",
    "integers and floats": "def f(row): return {'x': row['n'] if row['n'] < 8 else row['f']}",
    "nothing for a long time": "def f(row): return {'x': None if row['n'] < 9 else 'at last'}",
    "nested": "def f(row): return {'x': {'a': None if row['n'] < 7 else row['l']}, 'y': row['l'] or None}",
    "other columns": "def f(row): return {'n': row['n'], **({'late': 1} if row['n'] > 5 else {}), 'end': row['s']}",
    "none or many": "def f(row): return [{'n': row['n'], 'i': i, 't': row['t']} for i in range(row['n'] % 3)]",
    "none at all": "def f(row): return None",
    "numpy": "import numpy\ndef f(row): return {'x': numpy.int16(row['n']) if row['n'] % 2 else row['n']}",
    "memory": "def f(row): return {'x': memoryview(b'abc')[:row['n'] % 4]}",
    "random": "import random, numpy\ndef f(row): return {'x': random.random(), 'y': float(numpy.random.rand())}",
    "random at times": "import random\ndef f(row): return {'x': random.random() if row['n'] > 9 else 0.0}",
}
CUTS = [[], [1], [11], [4, 8], [3, 4, 9], list(range(1, ROWS))]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(tmp_path)
    return lambda code, **spec: Stage(open_text(f"{write_module(tmp_path, code)}:f", as_="row", **spec))


def seen(outputs: list[Output]) -> list[tuple[Any, ...]]:
    return [(output.port, output.batch.schema, output.batch.to_pylist(), output.origin) for output in outputs]


def joined(stage: Stage, numbers: list[int], cuts: list[int]) -> list[Output]:
    """What the rows with these numbers give, cut at these places."""
    rows = BATCH.take(pa.array(numbers))
    parts = []
    for start, end in itertools.pairwise([0, *cuts, len(numbers)]):
        ran = stage.run(rows.slice(start, end - start), 5, Share(numbers[start:end], is_part=True))
        assert ran.rows == end - start
        parts.append(ran.outputs[0].batch)
    (given,) = pa.Table.from_batches(parts).combine_chunks().column(0).chunks
    schema = pa.schema([*rows.schema, pa.field("", given.type)])
    return stage.join(pa.RecordBatch.from_arrays([*rows.columns, given], schema=schema), 5).outputs


@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize("code", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_joined_parts_are_what_one_attempt_gives(stage: Any, code: str, cuts: list[int]) -> None:
    whole = stage(code).run(BATCH, 5)
    assert whole.rows == ROWS
    assert seen(joined(stage(code), list(range(ROWS)), cuts)) == seen(whole.outputs)


def test_rows_draw_the_same_numbers_whoever_is_left_out(stage: Any) -> None:
    code = FUNCTIONS["random"]
    whole = stage(code).run(BATCH, 5).outputs[0].batch.take([1, 7, 8]).to_pylist()
    (output,) = joined(stage(code), [1, 7, 8], [1])
    assert output.batch.to_pylist() == whole
    assert stage(code).run(BATCH.take([1, 7, 8]), 5, Share([1, 7, 8])).outputs[0].batch.to_pylist() == whole


def test_a_function_that_draws_for_a_row_in_the_middle_is_found_out(stage: Any) -> None:
    code = (
        "import random\ncalls = []\ndef f(row):\n    calls.append(row['n'])\n    return {'x': %s, 'calls': len(calls)}"
    )
    drawing = stage(code % "random.random() if row['n'] == 7 else 0")
    drawn = [row["x"] for row in drawing.run(BATCH, 5).outputs[0].batch.to_pylist()]
    assert drawn[7] == joined(stage(code % "random.random()"), [7], [])[0].batch.to_pylist()[0]["x"]
    calls = [stage.run(BATCH, 6).outputs[0].batch.to_pylist()[-1]["calls"] for stage in (drawing, drawing)]
    assert calls == [3 * ROWS, 4 * ROWS], "only the first time"


def test_time_that_is_over_leaves_rows(stage: Any) -> None:
    ran = stage("def f(row): return row").run(BATCH, 0, Share(range(ROWS), seconds=0.0))
    assert ran.rows == 1 and len(ran.outputs[0].batch) == 1 and ran.seconds > 0
    ran = stage("def f(row): return row").run(BATCH, 0, Share(range(ROWS), seconds=60.0))
    assert ran.rows == ROWS and ran.outputs[0].batch.schema.names == BATCH.schema.names


def test_values_that_do_not_fit_fail_the_part(stage: Any) -> None:
    declared = stage("def f(row): return {'x': 'a' if row['n'] == 3 else 1}", returns=[["x", "int64"]])
    declared.run(BATCH.slice(0, 3), 0, Share(range(3), is_part=True))
    with pytest.raises(SchemaError, match="row 1 of the result"):
        declared.run(BATCH.slice(3, 3), 0, Share(range(3, 6), is_part=True))
    assert declared.row == 0
    with pytest.raises(SchemaError, match="cannot be passed on"):
        stage("class A(str): pass\nA.__qualname__ = 'nowhere'\ndef f(row): return {'x': A('a')}").run(
            BATCH, 0, Share(range(ROWS), is_part=True)
        )
