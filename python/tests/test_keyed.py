"""Stages with keys: an instance for each partition."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from conftest import Worker

from millpond.frame import Flag, Kind

COUNT = """
class F:
    made = 0
    def __init__(self):
        F.made += 1
        self.number = F.made
        self.count = 0
    def __call__(self, row):
        self.count += 1
        if row["n"] < 0:
            raise ValueError("negative")
        if row["n"] % 2 == 0:
            return {"n": row["n"], "count": self.count, "instance": self.number}
    def finish(self):
        return {"n": -1, "count": self.count, "instance": self.number}
    def close(self):
        print("closed", self.number)
"""


def run(worker: Worker, numbers: list[int], first: int, partitions: list[list[int]], **fields: Any) -> int:
    batch = pa.record_batch({"n": pa.array(numbers, pa.int64())})
    text = {"first": first, "partitions": partitions}
    return worker.start(batch, text=text, **fields)


def test_each_partition_has_an_instance_of_its_own(stage: Any) -> None:
    worker = stage(COUNT, "F", has_state=True)
    result = worker.result(run(worker, [9, 0, 2, 4, 6, 9], 1, [[3, 2], [7, 2]]))
    assert result.rows == 4
    assert [(row["count"], row["instance"]) for row in result.pylist()] == [(1, 1), (2, 1), (1, 2), (2, 2)]
    assert result.origins[0] == [1, 2, 3, 4]
    result = worker.result(run(worker, [1, 8, 10], 0, [[3, 2], [9, 1]], sequence=1))
    assert [(row["n"], row["count"], row["instance"]) for row in result.pylist()] == [(8, 4, 1), (10, 1, 3)]
    assert result.origins[0] == [1, 2]


def test_the_end_of_the_keys_comes_in_the_order_of_the_partitions(stage: Any) -> None:
    worker = stage(COUNT, "F", has_state=True)
    worker.result(run(worker, [0, 2], 0, [[7, 1], [9, 1]]))
    worker.result(run(worker, [4], 0, [[3, 1]], sequence=1))
    worker.send(Kind.FINISH_KEYS, stage=1, attempt=99, sequence=2)
    result = worker.result(99)
    assert [row["instance"] for row in result.pylist()] == [3, 1, 2]
    assert worker.stop()["status"] == 0
    assert worker.output().split() == ["closed", "3", "closed", "1", "closed", "2"]


def test_the_rows_of_an_attempt_are_those_of_its_partitions(stage: Any) -> None:
    source = "import millpond\ndef f(row): return {'rows': millpond.worker.rows, 'attempt': millpond.worker.attempt}"
    worker = stage(source, has_state=True)
    result = worker.result(run(worker, [9, 0, 2, 4, 9], 1, [[3, 2], [7, 1]], port=2))
    assert result.pylist() == [{"rows": 3, "attempt": 2}] * 3


def test_what_is_done_again_leaves_its_state_and_gives_nothing(stage: Any) -> None:
    worker = stage(COUNT, "F", has_state=True)
    attempt = run(worker, [0, 2, 4], 0, [[5, 3]], flags=Flag.AGAIN)
    frame = worker.channel.expect(Kind.DONE_AGAIN)
    assert frame.attempt == attempt
    result = worker.result(run(worker, [6], 0, [[5, 1]], sequence=1))
    assert [row["count"] for row in result.pylist()] == [4]


def test_the_row_at_fault_is_told_in_rows_of_the_whole_batch(stage: Any) -> None:
    worker = stage(COUNT, "F", has_state=True)
    result = worker.result(run(worker, [0, 0, 2, -1, 4], 1, [[1, 1], [2, 3]]))
    assert result.error["message"] == "negative"
    assert (result.error["row"], result.error["rows"]) == (3, [3, 4])


def test_a_function_of_batches_is_at_fault_as_a_whole(stage: Any) -> None:
    code = "def f(rows):\n    if rows[0]['n'] == 2:\n        raise ValueError('two')\n    return rows"
    worker = stage(code, as_="rows", has_state=True)
    result = worker.result(run(worker, [0, 1, 2, 3], 0, [[1, 2], [2, 2]]))
    assert (result.error["row"], result.error["rows"]) == (None, [2, 4])


def test_partitions_that_give_other_types_are_told_apart(stage: Any) -> None:
    code = "def f(rows):\n    return [{'n': row['n'] if row['n'] < 2 else row['n'] / 4} for row in rows]"
    worker = stage(code, as_="rows", has_state=True)
    attempt = run(worker, [0, 1, 2, 3], 0, [[1, 1], [2, 1], [3, 2]])
    types = []
    while (frame := worker.channel.receive()) is not None and frame.kind != Kind.DONE:
        if frame.kind == Kind.BATCH:
            types.append((frame.rows, str(worker.schemas[frame.schema].field("n").type)))
        else:
            assert worker.note(frame), frame
    assert frame is not None and frame.attempt == attempt
    assert types == [(2, "int64"), (2, "double")]


def test_random_numbers_belong_to_batch_and_partition(stage: Any) -> None:
    code = """
import random
import millpond
def f(rows):
    return [{"n": random.getrandbits(60), "id": millpond.batch_id}]
"""
    worker = stage(code, as_="rows", has_state=True)
    together = worker.result(run(worker, [0, 1], 0, [[1, 1], [2, 1]])).pylist()
    alone = worker.result(run(worker, [1], 0, [[2, 1]])).pylist()
    assert together[1] == alone[0] and together[0]["n"] != together[1]["n"]
    assert [row["id"] for row in together] == ["stage/0/1", "stage/0/2"]


SUM = """
import millpond
class F:
    def __init__(self):
        self.sum = 0
    def __call__(self, rows):
        self.sum += sum(row["n"] for row in rows)
        return [{"sum": self.sum}]
    def get_state(self):
        return self.sum
    def set_state(self, state):
        self.sum = state
"""


def test_a_snapshot_is_where_another_process_begins(template: Any, modules: Any) -> None:
    from conftest import write_module

    module = write_module(modules, SUM)
    snapshot = b""
    for worker in (template.fork(), template.fork()):
        assert worker.open(f"{module}:F", as_="rows", has_state=True)["snapshots"]
        if snapshot:
            worker.send(Kind.RESTORE, stage=1, attempt=50, data=snapshot)
            result = worker.result(run(worker, [5], 0, [[2, 1]]))
            assert [row["sum"] for row in result.pylist()] == [12]
        else:
            run(worker, [3, 4, 1], 0, [[2, 2], [8, 1]], flags=Flag.SNAPSHOT)
            while (frame := worker.channel.receive()) is not None and frame.kind != Kind.SNAPSHOT:
                assert frame.kind == Kind.BATCH or worker.note(frame)
            assert frame is not None
            snapshot = frame.data
        worker.close()


def test_a_state_that_cannot_be_given_fails_the_attempt(stage: Any) -> None:
    worker = stage(SUM.replace("return self.sum\n", "return lambda: None\n"), "F", as_="rows", has_state=True)
    error = worker.result(run(worker, [3], 0, [[2, 1]], flags=Flag.SNAPSHOT)).error
    assert error is not None and "pickle" in error["message"]


def test_rows_that_draw_random_numbers_are_not_run_again(stage: Any) -> None:
    code = """
import random
class F:
    def __init__(self):
        self.count = 0
    def __call__(self, row):
        self.count += 1
        if row["n"] == 30:
            random.random()
        return {"count": self.count}
"""
    worker = stage(code, "F", as_="row", has_state=True)
    result = worker.result(run(worker, list(range(40)), 0, [[1, 40]]))
    assert [row["count"] for row in result.pylist()] == list(range(1, 41))
