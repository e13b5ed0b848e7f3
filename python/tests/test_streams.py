"""`as: stream`: a generator over all batches."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from conftest import Result, Worker, write_module

from millpond.frame import Kind

WHOLE = {"as_": "stream", "has_state": True, "by_key": False}


def give(worker: Worker, numbers: list[int], sequence: int = 0) -> Result:
    batch = pa.record_batch({"n": pa.array(numbers, pa.int64())})
    text = {"first": 0, "partitions": [[0, len(numbers)]]}
    return worker.result(worker.start(batch, sequence=sequence, text=text))


def end(worker: Worker, sequence: int = 1) -> Result:
    worker.send(Kind.FINISH_KEYS, stage=1, attempt=99, sequence=sequence)
    return worker.result(99)


def numbers(result: Result) -> list[int]:
    return [row["n"] for row in result.pylist()]


PAIRS = """
import pyarrow as pa
def f(batches):
    held = []
    for batch in batches:
        held += batch.column("n").to_pylist()
        while len(held) >= 3:
            yield pa.table({"n": held[:3]})
            held = held[3:]
    yield pa.table({"n": held})
"""


def test_what_is_yielded_comes_with_the_batch_that_was_asked_for_last(stage: Any) -> None:
    worker = stage(PAIRS, **WHOLE)
    assert give(worker, [1, 2]).batches == {}
    assert numbers(give(worker, [3, 4, 5, 6, 7], 1)) == [1, 2, 3, 4, 5, 6]
    assert numbers(end(worker, 2)) == [7]


def test_a_stream_without_rows_has_an_end(stage: Any) -> None:
    worker = stage(PAIRS, **WHOLE)
    assert end(worker, 0).batch.num_rows == 0


def test_a_stream_that_returns_early_wants_no_more(stage: Any) -> None:
    worker = stage("def f(batches):\n    yield next(batches)", **WHOLE)
    assert numbers(give(worker, [1, 2])) == [1, 2]
    result = give(worker, [3], 1)
    assert (result.batches, result.rows) == ({}, 1)
    assert end(worker, 2).batches == {}


def test_an_error_has_the_traceback_of_the_stream(stage: Any) -> None:
    worker = stage("def f(batches):\n    for batch in batches:\n        yield batch.column('m')", **WHOLE)
    error = give(worker, [1]).error
    assert error is not None and error["rows"] == [0, 1]
    assert "yield batch.column('m')" in error["traceback"]
    assert "stream.py" not in error["traceback"]


def test_what_is_no_batch_is_refused(stage: Any) -> None:
    worker = stage("def f(batches):\n    yield 1", **WHOLE)
    error = give(worker, [1]).error
    assert error is not None and "yielded `int`" in error["message"] and error["verdict"] == "schema"


def test_the_stream_is_left_when_its_worker_ends(stage: Any) -> None:
    code = """
def f(batches):
    try:
        for batch in batches:
            try:
                yield batch
            except Exception:
                print("never")
    finally:
        print("left")
"""
    worker = stage(code, **WHOLE)
    give(worker, [1])
    assert worker.stop()["status"] == 0
    assert worker.output() == "left\n"


def test_an_iterator_must_be_asked_for(worker: Worker, modules: Any) -> None:
    code = "from collections.abc import Iterator\ndef f(batches: Iterator):\n    yield from batches"
    answer = worker.open(f"{write_module(modules, code)}:f")
    assert "as: stream" in answer["message"]
