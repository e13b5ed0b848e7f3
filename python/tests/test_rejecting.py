"""Rows that user code rejects."""

from __future__ import annotations

from typing import Any

import pytest

import millpond
from millpond import rejecting


def batch(rows: int, argument: Any = None) -> rejecting.Batch:
    made = rejecting.Batch(rows, argument)
    rejecting.enter(made)
    return made


@pytest.fixture(autouse=True)
def outside() -> Any:
    yield
    rejecting.enter(None)


def test_outside_a_batch_it_raises() -> None:
    with pytest.raises(millpond.Rejected, match="too short") as caught:
        millpond.reject({"text": ""}, "too short")
    assert isinstance(caught.value, millpond.MillpondError)


def test_positions_are_told_in_order_and_once() -> None:
    import numpy
    import pandas
    import pyarrow

    made = batch(9)
    millpond.reject(7, "first")
    millpond.reject(numpy.int64(3), "second")
    millpond.reject([7, 1], "third")
    millpond.reject(pandas.Index([2]), "fourth")
    millpond.reject(numpy.array([], dtype="int64"), "nobody")
    millpond.reject(pyarrow.array([4]), "fifth")
    assert made.rejected() == [(1, "third"), (2, "fourth"), (3, "second"), (4, "fifth"), (7, "first")]


def test_dicts_are_told_apart_by_who_they_are() -> None:
    rows = [{"n": 1}, {"n": 1}]
    made = batch(2, rows)
    millpond.reject(rows[1], "the second")
    assert made.rejected() == [(1, "the second")]
    with pytest.raises(millpond.MillpondError, match="none of the rows"):
        millpond.reject({"n": 1}, "a copy")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (3, "there is no row 3 to reject: the batch has 3 rows"),
        (-1, "there is no row -1"),
        (True, "no mask of them"),
        ([False, True], "no mask of them"),
        ("1", "and not str"),
        (1.0, "and not float"),
        ({"n": 1}, "none of the rows"),
    ],
)
def test_what_is_no_row(row: Any, message: str) -> None:
    batch(3)
    with pytest.raises(millpond.MillpondError, match=message):
        millpond.reject(row, "bad")


def test_a_reason_is_a_text() -> None:
    with pytest.raises(TypeError, match="is a text, and not dict"):
        millpond.reject("too short", {"text": ""})  # type: ignore[arg-type]
