"""Batches that are handed on where they lie: arrays of numpy, and columns of the input."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from millpond import scatter
from millpond.frame import Kind
from millpond.scatter import Holder

ROWS = 300_000
BIG = pa.record_batch({"n": pa.array(range(ROWS), pa.int64())})
SMALL = pa.record_batch({"n": [1, 2, 3]})
ADD = "def f(x): return {'n': x['n'] + 1}"


def columns(rows: int) -> dict[str, pa.Array]:
    """A column of every kind, with nulls where there can be some."""

    def every(number: int, value: Any) -> list[Any]:
        return [value(row) if row % number else None for row in range(rows)]

    return {
        "int": pa.array(every(3, int), pa.int32()),
        "float": pa.array([row / 2 for row in range(rows)]),
        "bool": pa.array(every(5, lambda row: row % 2 == 0)),
        "text": pa.array(every(4, lambda row: "x" * (row % 7))),
        "large_text": pa.array(every(4, lambda row: "é" * (row % 7)), pa.large_string()),
        "bytes": pa.array([b"ab"] * rows, pa.binary(2)),
        "list": pa.array(every(6, lambda row: [row] * (row % 4))),
        "nested": pa.array(every(6, lambda row: [["a"] * (row % 3)]), pa.large_list(pa.list_(pa.string()))),
        "vector": pa.array(every(6, lambda row: [1.0, row, 3.0]), pa.list_(pa.float64(), 3)),
        "struct": pa.array(every(6, lambda row: {"a": row, "b": str(row)})),
        "null": pa.nulls(rows),
        "time": pa.array(range(rows), pa.timestamp("us", "UTC")),
    }


def slices() -> list[pa.RecordBatch]:
    whole = pa.record_batch(columns(200))
    return [whole, whole.slice(3, 100), whole.slice(8, 64), whole.slice(13), whole.slice(199), whole.slice(5, 0)]


@pytest.mark.parametrize("batch", slices(), ids=lambda batch: f"{batch.num_rows} rows")
def test_a_batch_is_taken_apart_and_put_together(batch: pa.RecordBatch) -> None:
    for names in [batch.schema.names, *([name] for name in batch.schema.names)]:
        part = batch.select(names)
        parts = scatter.take_apart(part)
        assert parts is not None
        again = scatter.put_together(part.schema, parts.nodes, parts.buffers)
        again.validate(full=True)
        assert again.equals(part)


@pytest.mark.parametrize("column", [pa.array(["a"]).dictionary_encode(), pa.array(["a"], pa.string_view())])
def test_some_types_are_not_taken_apart(column: pa.Array) -> None:
    assert scatter.take_apart(pa.record_batch({"column": column})) is None


def test_a_description_is_read_back() -> None:
    nodes, places = [(3, 1), (5, 0)], [scatter.Place(64, 8, 7, Holder.RECEIVER), scatter.Place(0, 3, 0, Holder.FRAME)]
    data = scatter.describe(nodes, places)
    assert scatter.read_description(data + b"abc") == (nodes, places, len(data))


def test_an_array_is_handed_over_where_it_lies(stage: Any) -> None:
    worker = stage(ADD, as_="numpy")
    first = worker.run(BIG)
    assert first.places == {0: {(Holder.SENDER, 1)}}
    assert first.batch.column("n").to_pylist() == list(range(1, ROWS + 1))
    # As long as it is not released, the next one lies elsewhere.
    second = worker.run(BIG)
    assert second.places == {0: {(Holder.SENDER, 2)}}
    worker.send(Kind.RELEASE_OUTPUT, segment=1)
    assert worker.run(BIG).places == {0: {(Holder.SENDER, 1)}}
    assert len(worker.maps) == 2


@pytest.mark.parametrize(
    "keep", ["y", "y[5:10]", "memoryview(y)", "pa.array(y)", "[[y]]", "y.reshape(2, -1).T", "{'y': y}.items()"]
)
def test_an_array_that_user_code_keeps_is_copied(stage: Any, keep: str) -> None:
    worker = stage(
        f"""
        import ctypes
        import pyarrow as pa

        kept = []

        def f(x):
            for address, _ in kept:
                ctypes.memset(address, 255, 8 * len(x["n"]))
            y = x["n"] + 1
            kept.append((y.ctypes.data, {keep}))
            return {{"n": y}}
        """,
        as_="numpy",
    )
    results = [worker.run(BIG) for _ in range(3)]
    for result in results:
        assert result.batch.column("n").to_pylist() == list(range(1, ROWS + 1))


def test_an_array_is_handed_over_when_it_is_kept_no_longer(stage: Any) -> None:
    worker = stage("kept = []\ndef f(x):\n    kept[:] = [x['n'] + 1]\n    return {'n': kept[0]}", as_="numpy")
    first, second = worker.run(BIG), worker.run(BIG)
    assert first.batch.equals(second.batch)
    worker.send(Kind.RELEASE_OUTPUT, segment=1)
    worker.send(Kind.RELEASE_OUTPUT, segment=2)
    third = worker.run(BIG)
    assert third.batch.equals(first.batch) and len(worker.maps) == 2


def test_columns_of_one_array_share_its_segment(stage: Any) -> None:
    worker = stage(
        "def f(x):\n    y = x['n'] + 1\n    return {'a': y[: len(y) // 2], 'b': y[len(y) // 2 :]}", as_="numpy"
    )
    result = worker.run(BIG)
    assert result.places == {0: {(Holder.SENDER, 1)}}
    assert result.batch.column("b")[0].as_py() == ROWS // 2 + 1


def test_two_ports_may_have_one_array(stage: Any) -> None:
    code = "def f(x):\n    y = x['n'] + 1\n    return {'left': {'a': y}, 'right': {'b': y}}"
    worker = stage(code, as_="numpy", ports=["left", "right"])
    result = worker.run(BIG)
    assert result.places == {0: {(Holder.SENDER, 1)}, 1: {(Holder.SENDER, 1)}}
    assert result.batches[0].column("a").equals(result.batches[1].column("b"))
    # It is used again when both are released.
    worker.send(Kind.RELEASE_OUTPUT, segment=1)
    assert worker.run(BIG).places[0] == {(Holder.SENDER, 2)}
    worker.send(Kind.RELEASE_OUTPUT, segment=1)
    assert worker.run(BIG).places[0] == {(Holder.SENDER, 1)}


def test_one_port_may_have_a_slice_of_what_another_one_has(stage: Any) -> None:
    code = "def f(x):\n    y = x['n'] + 1\n    return {'left': {'a': y}, 'right': {'b': y[: len(y) // 4]}}"
    worker = stage(code, as_="numpy", ports=["left", "right"])
    for _ in range(3):
        result = worker.run(BIG)
        assert result.batches[0].column("a").to_pylist() == list(range(1, ROWS + 1))
        assert result.batches[1].column("b").to_pylist() == list(range(1, ROWS // 4 + 1))


def test_a_small_part_of_an_array_does_not_keep_it(stage: Any) -> None:
    worker = stage("def f(x): return {'n': (x['n'] + 1)[: len(x['n']) // 3]}", as_="numpy")
    result = worker.run(BIG)
    assert result.places == {} and result.batch.num_rows == ROWS // 3


def test_zeros_are_zero_also_in_memory_that_was_used(stage: Any) -> None:
    code = "import numpy as np\ndef f(x):\n    y = np.zeros(len(x['n']))\n    y[0] = 1\n    return {'y': y}"
    worker = stage(code, as_="numpy")
    for _ in range(3):
        result = worker.run(BIG)
        ((_, segment),) = result.places[0]
        assert result.batch.column("y").to_numpy().sum() == 1
        worker.send(Kind.RELEASE_OUTPUT, segment=segment)
    assert len(worker.maps) == 1


def test_an_array_may_grow_and_shrink(stage: Any) -> None:
    code = """
    def f(x):
        y = x["n"] + 0
        y.resize(3 * len(y), refcheck=False)
        y[len(x["n"]):] = 7
        y.resize(2 * len(x["n"]), refcheck=False)
        return {"y": y}
    """
    worker = stage(code, as_="numpy")
    result = worker.run(BIG).batch.column("y").to_pylist()
    assert result == [*range(ROWS), *[7] * ROWS]


def test_arrays_of_a_data_frame_are_handed_over(stage: Any) -> None:
    worker = stage("def f(df):\n    df['m'] = df['n'] * 2.5\n    return df", as_="pandas")
    result = worker.run(BIG)
    assert result.batch.column("m").to_pylist() == [row * 2.5 for row in range(ROWS)]
    assert result.batch.column("n").equals(BIG.column("n"))
    assert result.places


def test_columns_of_the_input_are_passed_on(stage: Any) -> None:
    code = """
    import pyarrow as pa

    def f(batch):
        return batch.append_column("y", pa.array(batch["n"].to_numpy() * 2))
    """
    worker = stage(code, as_="arrow")
    worker.add_segment(1, 4 << 20)
    attempt = worker.start(BIG, segment=1, offset=64)
    result = worker.result(attempt)
    assert result.places == {0: {(Holder.RECEIVER, 1), (Holder.SENDER, 1)}}
    assert result.batch.column("n").equals(BIG.column("n"))
    assert result.batch.column("y")[7].as_py() == 14
    worker.wait_for_release(attempt)


def test_what_is_kept_of_an_earlier_input_can_be_returned(stage: Any) -> None:
    worker = stage("kept = []\ndef f(batch):\n    kept.append(batch)\n    return kept[0]", as_="arrow")
    worker.add_segment(1, 4 << 20)
    worker.add_segment(2, 4 << 20)
    worker.result(worker.start(BIG, segment=1))
    other = pa.record_batch({"n": pa.array([0] * ROWS, pa.int64())})
    result = worker.result(worker.start(other, segment=2))
    assert result.places == {0: {(Holder.RECEIVER, 1)}} and result.batch.equals(BIG)
    assert worker.released == []


def test_a_small_part_of_the_input_does_not_keep_it(stage: Any) -> None:
    worker = stage("def f(batch): return batch.slice(5, batch.num_rows // 3)", as_="arrow")
    worker.add_segment(1, 4 << 20)
    attempt = worker.start(BIG, segment=1)
    result = worker.result(attempt)
    assert result.places == {} and result.batch.equals(BIG.slice(5, ROWS // 3))
    worker.wait_for_release(attempt)


@pytest.mark.parametrize(
    "code", ["batch", "batch.slice(3, batch.num_rows - 5)", "batch.select(batch.schema.names[::-1])"]
)
def test_columns_of_all_kinds_are_passed_on(stage: Any, code: str) -> None:
    batch = pa.record_batch(columns(20_000))
    worker = stage(f"def f(batch): return {code}", as_="arrow")
    worker.add_segment(1, 4 << 20)
    result = worker.result(worker.start(batch, segment=1))
    assert (Holder.RECEIVER, 1) in result.places[0]
    assert result.batch.equals(eval(code, {"batch": batch}))


def test_dictionaries_are_decoded_as_ever(stage: Any) -> None:
    code = "def f(batch): return batch.append_column('d', batch['n'].cast('string').dictionary_encode())"
    worker = stage(code, as_="arrow")
    worker.add_segment(1, 4 << 20)
    result = worker.result(worker.start(BIG, segment=1))
    assert result.batch.column("d").to_pylist() == list(map(str, range(ROWS)))
    assert result.batch.column("n").equals(BIG.column("n"))


def test_a_scattered_input_is_read_and_released_by_segment(stage: Any) -> None:
    code = """
    kept = []

    def f(batch):
        kept.append(batch["text"])
        return batch
    """
    worker = stage(code, as_="arrow")
    worker.add_segment(1, 4 << 20)
    worker.add_segment(2, 2 << 20)
    batch = pa.record_batch({"n": BIG["n"], "text": pa.array(["x"] * ROWS)})
    attempt = worker.start_scattered(batch, [1, 2])
    result = worker.result(attempt)
    assert result.batch.equals(batch)
    assert result.places == {0: {(Holder.RECEIVER, 1), (Holder.RECEIVER, 2)}}
    worker.wait_for_release(attempt)
    # The other segment is leased as long as there is a view of it.
    worker.run(pa.record_batch({"n": [1], "text": ["a"]}))
    assert worker.released == [attempt]


def test_a_forked_copy_has_arrays_of_its_own(stage: Any) -> None:
    code = """
    import os
    import numpy as np

    before = []

    def f(x):
        y = x["n"] + 1
        child = os.fork()
        if child == 0:
            y[:] = -1
            more = [np.full(len(y), -2) for _ in range(8)]
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        return {"n": y}
    """
    worker = stage(code, as_="numpy")
    results = [worker.run(BIG) for _ in range(3)]
    for result in results:
        assert result.batch.column("n").to_pylist() == list(range(1, ROWS + 1))


def test_a_fork_loses_nothing_that_other_threads_write(stage: Any) -> None:
    code = """
    import os
    import threading
    import numpy as np

    def f(x):
        out = np.zeros(1 << 20)
        begun = threading.Event()

        def add():
            for _ in range(100):
                np.add(out, 1, out=out)
                begun.set()

        thread = threading.Thread(target=add)
        thread.start()
        begun.wait()
        for _ in range(3):
            child = os.fork()
            if child == 0:
                os._exit(0 if out.base is None else 1)
            assert os.waitpid(child, 0)[1] == 0
        thread.join()
        return {"n": out}
    """
    result = stage(code, as_="numpy").run(SMALL)
    assert set(result.batch.column("n").to_pylist()) == {100.0}


def test_a_fork_while_results_are_lent_changes_nothing(stage: Any) -> None:
    code = """
    import os
    import numpy as np

    def f(x):
        if len(x["n"]) < 5:
            child = os.fork()
            if child == 0:
                more = [np.full(300_000, -2) for _ in range(8)]
                os._exit(0)
            os.waitpid(child, 0)
        return {"n": x["n"] + 1}
    """
    worker = stage(code, as_="numpy")
    result = worker.run(BIG)
    worker.run(SMALL)
    assert result.batch.column("n").to_pylist() == list(range(1, ROWS + 1))


def test_arrays_that_are_kept_are_in_the_ledger(stage: Any) -> None:
    code = """
    import numpy as np
    kept = []

    def f(x):
        kept.append(np.ones(1 << 18))
        if len(kept) == 4:
            kept.clear()
        return {"n": x["n"]}
    """
    worker = stage(code, as_="numpy")
    seen = []
    for _ in range(5):
        worker.run(SMALL)
        seen.append(int.from_bytes(worker.ledger[:8], "little") >> 20)
    assert seen == [2, 4, 6, 0, 2]


def test_few_blocks_are_kept_for_later(stage: Any) -> None:
    from millpond.outputs import MAX_FREE_BYTES

    worker = stage("def f(x): return {'n': x['n'] + 1}", as_="numpy")
    large = pa.record_batch({"n": pa.array([7] * (2 << 20), pa.int64())})
    segments = [next(iter(worker.run(large).places[0]))[1] for _ in range(6)]
    for segment in segments:
        worker.send(Kind.RELEASE_OUTPUT, segment=segment)
    worker.run(SMALL)
    assert len(worker.dropped) == 6 - MAX_FREE_BYTES // (16 << 20)
    assert worker.dropped == segments[: len(worker.dropped)]


def test_what_is_made_while_the_code_is_imported_is_no_block(stage: Any) -> None:
    worker = stage("import numpy as np\nweights = np.ones(1 << 20)\ndef f(x): return {'n': x['n']}", as_="numpy")
    worker.run(SMALL)
    assert worker.ledger[:8] == bytes(8)


def test_more_arrays_than_blocks(stage: Any) -> None:
    code = """
    import numpy as np

    def f(x):
        arrays = [np.full(1 << 17, number) for number in range(200)]
        return {"n": np.array([array.sum() for array in arrays]), "m": np.array([array[-1] for array in arrays])}
    """
    worker = stage(code, as_="numpy")
    for _ in range(2):
        assert worker.run(SMALL).batch.column("n").to_pylist() == [number << 17 for number in range(200)]


def test_without_its_library_a_worker_copies(template: Any, modules: Any) -> None:
    from conftest import PACKAGE, Template, write_module

    library = PACKAGE / "millpond" / "liballocator.so"
    hidden = library.with_suffix(".hidden")
    library.rename(hidden)
    try:
        other = Template(preload=["pyarrow", "numpy"], path=[str(modules)])
        worker = other.fork()
        worker.open(f"{write_module(modules, ADD)}:f", as_="numpy")
        result = worker.run(BIG)
        assert result.places == {} and result.segments == {0: 1}
        assert result.batch.column("n")[-1].as_py() == ROWS
        worker.close()
        other.close()
    finally:
        hidden.rename(library)
