"""Rows that a row function raises for are left out and told, where the stage may go on without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import open_text, write_module

from millpond.stage import Ran, Share, Stage

BATCH = pa.record_batch({"n": list(range(10))})
BAD = [1, 5, 6, 9]
GOOD = [number for number in range(10) if number not in BAD]

CODE = """
import random

def f(row):
    if row["n"] % 4 == 1:
        raise ValueError(f"no {row['n']}")
    if row["n"] == 6:
        return "six"
    made = {"n": row["n"], "draw": random.random()}
    return made if row["n"] != 8 else [made, made]
"""

TOLD = [
    (1, "no 1", "exception"),
    (5, "no 5", "exception"),
    (6, "returned `str`, but `as: row` gives a dict, several, or `None` for no row", "schema"),
    (9, "no 9", "exception"),
]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(tmp_path)

    def make(skips: bool) -> Stage:
        return Stage({**open_text(f"{write_module(tmp_path, CODE)}:f", as_="row"), "skips": skips})

    return make


def told(ran: Ran) -> list[tuple[int, str, str]]:
    return [(failed["row"], failed["message"], failed["verdict"]) for failed in ran.failed]


def test_rows_that_raise_are_left_out_and_told(stage: Any) -> None:
    ran = stage(skips=True).run(BATCH, 3)
    (output,) = ran.outputs
    without = stage(skips=True).run(BATCH.take(GOOD), 3, Share(GOOD)).outputs[0].batch
    assert (told(ran), ran.rows) == (TOLD, 10)
    assert output.batch == without
    assert list(output.origin) == [0, 2, 3, 4, 7, 8, 8]
    assert all("in f" in failed["traceback"] for failed in ran.failed if failed["verdict"] == "exception")


def test_parts_without_rows_that_raise_are_joined_as_the_others_alone(stage: Any) -> None:
    made = stage(skips=True)
    parts = []
    for numbers in ([0, 1], [2, 3, 4, 5, 6], [7, 8], [9]):
        ran = made.run(BATCH.take(numbers), 3, Share(numbers, is_part=True))
        assert [numbers[failed["row"]] for failed in ran.failed] == [number for number in numbers if number in BAD]
        assert ran.rows == len(numbers)
        parts.append(ran.outputs[0].batch)
    (given,) = pa.Table.from_batches(parts).combine_chunks().column(0).chunks
    schema = pa.schema([*BATCH.schema, pa.field("", given.type)])
    joined = made.join(pa.RecordBatch.from_arrays([*BATCH.take(GOOD).columns, given], schema=schema), 3)
    assert joined.outputs[0].batch == made.run(BATCH.take(GOOD), 3, Share(GOOD)).outputs[0].batch


def test_without_leave_the_first_row_that_raises_ends_the_attempt(stage: Any) -> None:
    made = stage(skips=False)
    for share in (None, Share(range(10), is_part=True)):
        with pytest.raises(ValueError, match="no 1"):
            made.run(BATCH, 3, share)
        assert made.row == 1


def test_an_exit_is_no_row_to_skip(stage: Any, tmp_path: Path) -> None:
    code = "def f(row):\n    raise SystemExit(3)\n"
    made = Stage({**open_text(f"{write_module(tmp_path, code)}:f", as_="row"), "skips": True})
    with pytest.raises(SystemExit):
        made.run(BATCH, 0)
