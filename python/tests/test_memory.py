"""Shared memory: leases on inputs, and output segments."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

BIG = pa.record_batch({"n": pa.array(range(50_000), pa.int64())})
SMALL = pa.record_batch({"n": [1, 2, 3]})
KEEP = """
import pyarrow as pa
kept = []
count = 0

def f(batch: pa.RecordBatch):
    global count
    count += 1
    if count == 1:
        kept.append(batch.column("n").slice(10, 5))
    if count == 3:
        kept.clear()
    return pa.record_batch({"kept": pa.concat_arrays(kept) if kept else pa.array([], pa.int64())})
"""


def test_a_lease_ends_with_the_last_view(stage: Any) -> None:
    worker = stage(KEEP)
    worker.add_segment(1, 1 << 20)
    worker.add_segment(2, 1 << 20)
    first = worker.start(BIG, segment=1)
    assert worker.result(first).batch.column("kept").to_pylist() == [10, 11, 12, 13, 14]
    second = worker.start(BIG, segment=2, offset=64)
    assert worker.result(second).batch.column("kept").to_pylist() == [10, 11, 12, 13, 14]
    worker.wait_for_release(second)
    assert first not in worker.released
    third = worker.start(BIG, segment=2)
    worker.result(third)
    worker.wait_for_release(third)
    worker.wait_for_release(first)
    assert sorted(worker.released) == [first, second, third]


def test_one_segment_may_be_leased_twice_at_a_time(stage: Any) -> None:
    worker = stage("def f(batch): return batch", as_="arrow")
    worker.add_segment(1, 2 << 20)
    first, second = worker.start(BIG, segment=1), worker.start(BIG.slice(5), segment=1, offset=1 << 20)
    assert worker.result(first).batch.equals(BIG)
    assert worker.result(second).batch.equals(BIG.slice(5))
    worker.wait_for_release(second)
    assert sorted(worker.released) == [first, second]


def test_a_cycle_is_collected_when_the_worker_is_idle(stage: Any) -> None:
    worker = stage("def f(batch):\n    cycle = [batch]\n    cycle.append(cycle)", as_="arrow")
    worker.add_segment(1, 1 << 20)
    attempt = worker.start(BIG, segment=1)
    worker.result(attempt)
    worker.wait_for_release(attempt)


def test_an_exception_does_not_keep_the_batch(stage: Any) -> None:
    worker = stage("def f(df):\n    view = df\n    raise ValueError from KeyError(view)", as_="pandas")
    worker.add_segment(1, 1 << 20)
    attempt = worker.start(BIG, segment=1)
    assert worker.result(attempt).error["type"] == "ValueError"
    worker.wait_for_release(attempt)


def test_a_forgotten_segment_stays_while_it_is_leased(stage: Any) -> None:
    from millpond.frame import Kind

    worker = stage(KEEP)
    worker.add_segment(1, 1 << 20)
    first = worker.start(BIG, segment=1)
    worker.result(first)
    worker.send(Kind.FORGET, segment=1)
    assert worker.run(SMALL).batch.column("kept").to_pylist() == [10, 11, 12, 13, 14]
    worker.run(SMALL)
    worker.wait_for_release(first)


@pytest.mark.parametrize(
    ("convention", "code"),
    [
        ("numpy", "x['n'][0] = 5"),
        ("arrow", "x.column('n').to_numpy()[0] = 5"),
        ("arrow", "memoryview(x[0].buffers()[1])[0] = 5"),
    ],
)
def test_input_is_read_only(stage: Any, convention: str, code: str) -> None:
    worker = stage(f"def f(x):\n    {code}\n    return x", as_=convention)
    worker.add_segment(1, 1 << 20)
    error = worker.result(worker.start(BIG, segment=1)).error
    assert error["verdict"] == "exception" and "read-only" in error["message"]


def test_a_dataframe_can_be_written_to(stage: Any) -> None:
    worker = stage("def f(df):\n    df.loc[0, 'n'] = 5\n    df['n'].to_numpy()\n    return df", as_="pandas")
    worker.add_segment(1, 1 << 20)
    assert worker.result(worker.start(BIG, segment=1)).batch.column("n")[0].as_py() == 5


def test_large_outputs_use_released_segments_again(stage: Any) -> None:
    from millpond.frame import Kind

    worker = stage("def f(batch): return batch", as_="arrow")
    first, second = worker.run(BIG), worker.run(BIG.slice(7))
    assert first.batch.equals(BIG) and second.batch.equals(BIG.slice(7))
    assert first.segments != second.segments
    for result in (first, second):
        worker.send(Kind.RELEASE_OUTPUT, segment=result.segments[0])
    third = worker.run(BIG.slice(9))
    assert third.segments == second.segments
    assert third.batch.equals(BIG.slice(9))
    assert len(worker.maps) == 2


def test_small_outputs_and_their_origins_travel_inline(stage: Any) -> None:
    result = stage("def f(row): return [row, row]").run(SMALL)
    assert result.segments == {} and result.origins == {0: [0, 0, 1, 1, 2, 2]}


def test_large_outputs_with_origins(stage: Any) -> None:
    result = stage("def f(row): return row if row['n'] % 2 else None").run(BIG)
    assert result.segments == {0: 1}
    assert result.origins[0] == list(range(1, 50_000, 2)) == result.batch.column("n").to_pylist()


def test_too_many_free_segments_are_dropped(stage: Any) -> None:
    from millpond.frame import Kind
    from millpond.outputs import MAX_FREE_SEGMENTS

    worker = stage("def f(batch): return batch", as_="arrow")
    segments = [worker.run(BIG).segments[0] for _ in range(MAX_FREE_SEGMENTS + 2)]
    for segment in segments:
        worker.send(Kind.RELEASE_OUTPUT, segment=segment)
    assert worker.run(BIG).segments == {0: segments[-1]}
    assert worker.dropped == segments[:2]


def test_segments_are_sealed_and_of_a_power_of_two(stage: Any) -> None:
    worker = stage("def f(batch): return batch", as_="arrow")
    large = pa.record_batch({"n": pa.array(range(200_000), pa.int64())})
    worker.run(BIG)
    worker.run(large)
    assert [len(mapped) for mapped in worker.maps.values()] == [1 << 20, 2 << 20]


def test_no_room_in_shared_memory_is_an_error(stage: Any) -> None:
    worker = stage(
        """
        import errno, os

        def full(fd, offset, size):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def f(batch):
            os.posix_fallocate = full
            return batch
        """,
        as_="arrow",
    )
    error = worker.run(BIG).error
    assert error["type"] == "millpond.errors.SharedMemoryError" and error["verdict"] == "exception"
    assert worker.run(SMALL).batch.equals(SMALL)


def test_wide_schemas_fit(stage: Any) -> None:
    wide = pa.record_batch({f"column_{i}": [i] for i in range(3_000)})
    worker = stage("def f(batch): return batch", as_="arrow")
    assert worker.run(wide).batch.equals(wide)
