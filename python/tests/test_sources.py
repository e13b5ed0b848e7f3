"""Stages without input."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest


def numbers(result: Any) -> list[int]:
    return result.batch.column("n").to_pylist()


COUNT = """
def f(until):
    for n in range(until):
        yield {"n": n}
"""


def test_rows_are_cut_by_count(stage: Any) -> None:
    worker = stage(COUNT, source=True, with_={"until": 5}, batch_rows=2)
    results = [worker.pull(i) for i in range(3)]
    assert [numbers(result) for result in results] == [[0, 1], [2, 3], [4]]
    assert [result.end for result in results] == [False, False, True]
    assert results[0].rows == 0


def test_the_end_may_come_without_a_batch(stage: Any) -> None:
    worker = stage(COUNT, source=True, with_={"until": 2}, batch_rows=2)
    assert numbers(worker.pull(0)) == [0, 1]
    last = worker.pull(1)
    assert last.end and last.batches == {}


def test_rows_are_cut_by_bytes(stage: Any) -> None:
    worker = stage(
        "def f():\n    for n in range(4):\n        yield {'n': n, 's': 'x' * 600}", source=True, batch_bytes=1000
    )
    assert [numbers(worker.pull(i)) for i in range(2)] == [[0, 1], [2, 3]]


def test_a_new_process_skips_to_where_the_old_one_was(stage: Any) -> None:
    worker = stage(COUNT, source=True, with_={"until": 10}, batch_rows=2)
    assert numbers(worker.pull(3)) == [6, 7]
    assert numbers(worker.pull(4)) == [8, 9]
    assert numbers(worker.pull(1)) == [2, 3]
    beyond = worker.pull(9)
    assert beyond.end and beyond.batches == {}


def test_random_numbers_are_the_same_after_a_skip(template: Any, modules: Any) -> None:
    from conftest import write_module

    source = "import random\ndef f():\n    while True:\n        yield {'n': random.getrandbits(60)}"
    module = write_module(modules, source)
    pulled = []
    for sequences in ([0, 1, 2], [2]):
        worker = template.fork()
        worker.open(f"{module}:f", source=True, batch_rows=2)
        pulled.append([numbers(worker.pull(i)) for i in sequences][-1])
        worker.close()
    assert pulled[0] == pulled[1]


def test_a_generator_that_raised_is_started_again(stage: Any) -> None:
    worker = stage(
        """
        failures = [1]

        def f():
            for n in range(4):
                if n == 2 and failures:
                    failures.pop()
                    raise OSError("connection lost")
                yield {"n": n}
        """,
        source=True,
        batch_rows=2,
    )
    assert numbers(worker.pull(0)) == [0, 1]
    assert worker.pull(1).error["message"] == "connection lost"
    assert numbers(worker.pull(1)) == [2, 3]


@pytest.mark.parametrize(
    "items",
    [
        "[{'n': 0}, {'n': 1}], {'n': 2}, [{'n': 3}, {'n': 4}]",
        "pd.DataFrame({'n': range(5)})",
        "pa.table({'n': range(3)}), pa.record_batch({'n': [3, 4]})",
        "{'n': 0}, pa.table({'n': range(1, 5)})",
        "pa.table({'n': pa.array([], 'int64')}), {'n': 0}, {'n': 1}, [], {'n': 2}, None, {'n': 3}, {'n': 4}",
    ],
)
def test_what_a_source_may_yield(stage: Any, items: str) -> None:
    worker = stage(
        f"import pandas as pd, pyarrow as pa\ndef f():\n    yield from ({items},)", source=True, batch_rows=2
    )
    rows: list[int] = []
    for sequence in range(10):
        result = worker.pull(sequence)
        assert result.error is None, result.error
        if result.batches:
            assert len(numbers(result)) <= 2
            rows += numbers(result)
        if result.end:
            break
    assert rows == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("result", ["[{'n': 0}]", "pd.DataFrame({'n': [0]})", "pa.table({'n': [0]})", "{'n': 0}"])
def test_a_source_may_return_what_it_has(stage: Any, result: str) -> None:
    worker = stage(f"import pandas as pd, pyarrow as pa\ndef f(): return {result}", source=True)
    assert numbers(worker.pull(0)) == [0]
    assert worker.pull(1).end


def test_a_source_of_arrays(stage: Any) -> None:
    worker = stage("import numpy as np\ndef f():\n    yield {'n': np.arange(3)}", source=True, as_="numpy")
    assert numbers(worker.pull(0)) == [0, 1, 2]


def test_a_class_may_be_a_source(stage: Any) -> None:
    worker = stage("class f:\n    def __call__(self):\n        yield {'n': 1}", source=True)
    assert numbers(worker.pull(0)) == [1]


@pytest.mark.parametrize("body", ["return 7", "yield 7", "return 'text'"])
def test_other_things_are_schema_errors(stage: Any, body: str) -> None:
    error = stage(f"def f(): {body}", source=True).pull(0).error
    assert error["verdict"] == "schema"


def test_returns_holds_for_sources(stage: Any) -> None:
    worker = stage(COUNT, source=True, with_={"until": 1}, returns=[["n", "float32"]])
    assert worker.pull(0).batch.schema == pa.schema({"n": pa.float32()})
