"""`import millpond`, in a run and outside."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

import millpond
from millpond import annotation, column_types, context, errors

ONE = pa.record_batch({"n": [1]})


def test_params_and_batch_id_in_a_run(stage: Any) -> None:
    worker = stage(
        """
        import millpond
        from millpond import params

        FLOOR = params["floor"]

        def f(row):
            millpond.log.info("at %s", millpond.batch_id)
            return {"floor": FLOOR, "id": millpond.batch_id}
        """,
        params={"floor": 3},
        name="clean",
    )
    assert worker.run(ONE, sequence=41).pylist() == [{"floor": 3, "id": "clean/41"}]
    worker.stop()
    (told,) = records(worker.output())
    assert told == {
        "level": "INFO",
        "logger": "millpond",
        "stage": "clean",
        "batch": 41,
        "row": 0,
        "message": "at clean/41",
    }


def records(output: str) -> list[dict[str, Any]]:
    return [json.loads(line[1:]) for line in output.split("\n") if line.startswith("\x1e")]


SAYS = """
import logging, warnings, sys
logging.getLogger("lib").info("imported")
class F:
    def __call__(self, row):
        if row["n"] == 3:
            logging.getLogger("lib").debug("fine")
            warnings.warn("odd")
            try:
                1 / 0
            except ZeroDivisionError:
                logging.exception("bad")
            print("printed", file=sys.stderr)
            sys.stderr.write("begun ")
            logging.error("whole")
        return row
    def close(self):
        logging.warning("closed")
"""


def test_records_tell_where_they_come_from(stage: Any) -> None:
    worker = stage(SAYS, "F", as_="row", name="clean")
    worker.run(pa.record_batch({"n": [1, 2, 3]}), sequence=4)
    worker.stop()
    output = worker.output()
    told = records(output.replace("begun \x1e", "\x1e"))
    assert [(one["level"], one["logger"], one["batch"], one["row"]) for one in told] == [
        ("INFO", "lib", None, None),
        ("WARNING", "py.warnings", 4, 2),
        ("ERROR", "root", 4, 2),
        ("ERROR", "root", 4, 2),
        ("WARNING", "root", None, None),
    ]
    assert "UserWarning: odd" in told[1]["message"] and "ZeroDivisionError" in told[2]["message"]
    assert {one["stage"] for one in told} == {"clean"}
    assert output.index("ZeroDivisionError") < output.index("\nprinted\n") < output.index("whole")


def test_the_level_of_a_stage_is_that_of_its_records(stage: Any) -> None:
    worker = stage(SAYS, "F", as_="row", log_level="error")
    worker.run(pa.record_batch({"n": [3]}))
    worker.stop()
    assert [one["level"] for one in records(worker.output().replace("begun \x1e", "\x1e"))] == ["ERROR"] * 2


def test_random_numbers_depend_on_seed_stage_and_sequence(stage: Any) -> None:
    source = "import random, numpy\ndef f(row): return {'a': random.random(), 'b': float(numpy.random.rand())}"
    worker = stage(source)
    (first,), (again,), (other,) = (worker.run(ONE, sequence=i).pylist() for i in (1, 1, 2))
    assert first == again and first["a"] != other["a"] and first["b"] != other["b"]


def test_outside_a_run() -> None:
    assert dict(millpond.params) == {}
    assert millpond.batch_id == "none/0"
    with pytest.raises(KeyError, match="no param `floor`"):
        millpond.params["floor"]
    with pytest.raises(AttributeError, match="has no `count`"):
        millpond.count  # noqa: B018
    with pytest.raises(TypeError):
        millpond.params["floor"] = 3  # type: ignore[index]

    assert (millpond.worker.id, millpond.worker.attempt, millpond.worker.rows) == (0, 1, 0)
    with pytest.raises(AttributeError):
        millpond.worker.attempt = 3  # type: ignore[misc]


ABOUT = """
import millpond
class F:
    def __init__(self):
        self.made = repr(millpond.worker)
    def __call__(self, rows):
        worker = millpond.worker
        return [{"made": self.made, "id": worker.id, "attempt": worker.attempt, "rows": worker.rows}]
    def close(self):
        print(millpond.worker)
"""


def test_the_worker_tells_which_attempt_it_runs(stage: Any) -> None:
    worker = stage(ABOUT, "F", as_="rows")
    made = f"Worker(id={worker.id}, attempt=1, rows=0)"
    two = pa.record_batch({"n": [1, 2]})
    assert worker.run(two).pylist() == [{"made": made, "id": worker.id, "attempt": 1, "rows": 2}]
    assert worker.run(ONE, port=3).pylist() == [{"made": made, "id": worker.id, "attempt": 3, "rows": 1}]
    worker.stop()
    assert worker.output() == f"{made}\n"


def test_the_log_follows_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    millpond.log.warning("careful")
    assert capsys.readouterr().err == "WARNING careful\n"


def test_seeds_are_stable() -> None:
    import random

    context.enter_attempt(7, "stage", 3)
    assert random.getrandbits(64) == 12291390788623442341


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("int8", pa.int8()),
        ("float64", pa.float64()),
        ("date", pa.date32()),
        ("timestamp", pa.timestamp("us")),
        ("timestamp[UTC]", pa.timestamp("us", "UTC")),
        ("timestamp[ms]", pa.timestamp("ms")),
        ("timestamp[ns, Europe/Berlin]", pa.timestamp("ns", "Europe/Berlin")),
        ("decimal(10,2)", pa.decimal128(10, 2)),
        ("decimal(50, 2)", pa.decimal256(50, 2)),
        ("list<list<string>>", pa.list_(pa.list_(pa.string()))),
    ],
)
def test_type_words(word: str, expected: pa.DataType) -> None:
    assert column_types.column_type(word) == expected


def test_annotations_of_callables_without_signature() -> None:
    assert annotation.infer(dict) == ("row", False)


def test_cutting_in_the_middle_keeps_whole_characters() -> None:
    text = errors.cut_middle("ü" * 100, 101)
    assert len(text.encode()) <= 101
    assert text.startswith("üü") and text.endswith("üü") and "bytes left out" in text
