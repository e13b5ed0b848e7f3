"""`as: row` and `as: rows` in detail, where short cuts must not show. No processes: the stage is called here."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import open_text, write_module

from millpond.codecs.values import Given, list_of, rows_of
from millpond.stage import Output, Stage

COUNTED = pa.record_batch({"n": pa.array(range(40), pa.int64())})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`run(code, batch, **spec)` gives the outputs of one attempt of `f`, and `run.stage` is the stage."""
    monkeypatch.syspath_prepend(tmp_path)

    class Run:
        stage: Stage

        def __call__(self, code: str, batch: pa.RecordBatch, **spec: Any) -> list[Output]:
            self.stage = Stage(open_text(f"{write_module(tmp_path, code)}:f", **spec))
            return self.stage.run(batch, 0).outputs

    return Run()


TEXTS = {
    "ascii": ["a", "", "bc"],
    "unicode": ["ü", "日本", "🙂a", ""],
    "nulls": ["a", None, "", None],
    "all null": [None, None],
    "empty": ["", "", ""],
    "control": ["\0", "a\0b", "\n", "\x7f\x80"],
    "large": ["x" * 100_000, "ü" * 70_000, ""],
    "many": [f"{i}ü" for i in range(100)],
}


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
@pytest.mark.parametrize("values", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("convention", ["row", "rows"])
def test_text_goes_through(run: Any, values: list[str | None], kind: pa.DataType, convention: str) -> None:
    batch = pa.record_batch({"before": pa.array(values, kind), "s": pa.array(values, kind)})
    for part in (batch, batch.slice(1), batch.slice(0, 1)):
        (output,) = run("def f(x): return x", part, as_=convention)
        assert output.batch.to_pylist() == part.to_pylist()
        output.batch.validate(full=True)


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64(), pa.float32(), pa.float64()]
)
@pytest.mark.parametrize("count", [1, 15, 16, 100])
def test_numbers_are_the_same_however_many(kind: pa.DataType, count: int) -> None:
    whole = pa.array(range(count + 3), kind)
    nulls = pa.array([None if i % 3 == 0 else i for i in range(count + 3)], kind)
    for column in (whole, whole.slice(2, count), whole.slice(1, 0), nulls, nulls.slice(1, count)):
        assert list_of(column) == column.to_pylist()


def test_column_names_are_not_code() -> None:
    names = ["a b", "'", '"', "{x}", "\\", "ü", "class", "", "v0", "columns", "\n"]
    batch = pa.record_batch([pa.array([number]) for number in range(len(names))], names=names)
    (row,) = rows_of(batch, Given(batch))
    assert list(row.items()) == [(name, number) for number, name in enumerate(names)]


@pytest.mark.parametrize("width", [0, 1, 2, 200, 201, 1000])
def test_rows_of_any_width(width: int) -> None:
    names = [f"c{number}" for number in range(width)]
    batch = pa.RecordBatch.from_struct_array(
        pa.array([dict.fromkeys(names, 1)] * 2, pa.struct({n: pa.int64() for n in names}))
    )
    rows = list(rows_of(batch, Given(batch)))
    assert rows == [dict.fromkeys(names, 1)] * 2 and rows[0] is not rows[1]


def test_the_order_of_keys_may_differ_from_row_to_row(run: Any) -> None:
    code = "def f(r): return {'a': r['n'], 'b': 1} if r['n'] % 2 == 0 else {'b': 2, 'a': r['n']}"
    (output,) = run(code, COUNTED)
    assert output.batch.schema.names == ["a", "b"]
    assert output.batch["a"].to_pylist() == list(range(40)) and set(output.batch["b"].to_pylist()) == {1, 2}


@pytest.mark.parametrize("convention", ["row", "rows"])
def test_as_many_keys_but_others_is_null_where_a_row_lacks_them(run: Any, convention: str) -> None:
    body = "{'a': n, 'b': n} if n != 1 else {'a': n, 'c': 7}"
    code = (
        f"def f(r):\n    n = r['n']\n    return {body}"
        if convention == "row"
        else (f"def f(rows): return [{body} for n in (r['n'] for r in rows)]")
    )
    (output,) = run(code, COUNTED.slice(0, 3), as_=convention)
    assert output.batch.to_pylist() == [
        {"a": 0, "b": 0, "c": None},
        {"a": 1, "b": None, "c": 7},
        {"a": 2, "b": 2, "c": None},
    ]


def test_one_dict_that_changes_from_call_to_call(run: Any) -> None:
    (output,) = run("kept = {}\ndef f(r):\n    kept['n'] = r['n']\n    return kept", COUNTED)
    assert output.batch["n"].to_pylist() == list(range(40)) and output.origin is None


def test_one_dict_that_a_generator_changes(run: Any) -> None:
    code = "def f(rows):\n    kept = {}\n    for r in rows:\n        kept['n'] = r['n']\n        yield kept"
    (output,) = run(code, COUNTED, as_="rows")
    assert output.batch["n"].to_pylist() == list(range(40))


@pytest.mark.parametrize(
    ("odd", "rows", "origin"),
    [
        ("None", [0, 1, 3], [0, 1, 3]),
        ("[]", [0, 1, 3], [0, 1, 3]),
        ("[{'n': 7}, {'n': 8}]", [0, 1, 7, 8, 3], [0, 1, 2, 2, 3]),
        ("[{'n': 7}]", [0, 1, 7, 3], None),
        ("OrderedDict(n=7)", [0, 1, 7, 3], None),
        ("MappingProxyType({'n': 7})", [0, 1, 7, 3], None),
    ],
)
def test_a_row_that_is_not_one_dict(run: Any, odd: str, rows: list[int], origin: list[int] | None) -> None:
    imports = "from collections import OrderedDict\nfrom types import MappingProxyType\n"
    (output,) = run(f"{imports}def f(r): return {odd} if r['n'] == 2 else r", COUNTED.slice(0, 4))
    assert output.batch["n"].to_pylist() == rows
    assert (None if output.origin is None else output.origin.tolist()) == origin


def test_the_last_row_gives_none(run: Any) -> None:
    (output,) = run("def f(r): return r if r['n'] < 3 else None", COUNTED.slice(0, 4))
    assert output.origin is not None and output.origin.tolist() == [0, 1, 2]


@pytest.mark.parametrize("before", ["", "if r['n'] == 1: return None"])
@pytest.mark.parametrize(
    "fault", ["raise ValueError('no')", "return 5", "return {'n': object()}", "return {'n': 'text'}", "return [3]"]
)
def test_the_row_at_fault_is_known(run: Any, before: str, fault: str) -> None:
    code = f"def f(r):\n    {before or 'pass'}\n    if r['n'] == 3:\n        {fault}\n    return r"
    with pytest.raises(Exception):  # noqa: B017
        run(code, COUNTED)
    assert run.stage.row == 3


def test_schemas_that_change_from_batch_to_batch_are_finished_each(run: Any) -> None:
    run("import pyarrow as pa\nmade = []\ndef f(b): return made.pop(0) if made else b", COUNTED, as_="arrow")
    stage: Stage = run.stage
    words = pa.record_batch({"n": pa.array(["a"]).dictionary_encode()})
    noted = pa.record_batch({"n": pa.array([1])}).replace_schema_metadata({"k": "v"})
    strict = pa.record_batch([pa.array([1])], schema=pa.schema([pa.field("n", pa.int64(), nullable=False)]))
    for batch, kind in ((noted, pa.int64()), (words, pa.string()), (strict, pa.int64()), (COUNTED, pa.int64())):
        (output,) = stage.run(batch, 1).outputs
        assert output.batch.schema.equals(pa.schema({"n": kind}), check_metadata=True)


def test_ports_have_a_schema_each(run: Any) -> None:
    code = "def f(r): return {'good': r} if r['n'] % 2 else {'bad': {'why': 'even'}}"
    good, bad = run(code, COUNTED.slice(0, 4), ports=["good", "bad"])
    assert (good.batch.to_pylist(), good.origin.tolist()) == ([{"n": 1}, {"n": 3}], [1, 3])
    assert (bad.batch.to_pylist(), bad.origin.tolist()) == ([{"why": "even"}] * 2, [0, 2])


def test_lone_surrogates_are_an_error_that_names_the_row(run: Any) -> None:
    with pytest.raises(Exception, match="column `s`"):
        run("def f(r): return {'s': '\\ud800' if r['n'] == 3 else 'a'}", COUNTED)
    assert run.stage.row == 3


def test_subclasses_of_dict_are_rows(run: Any) -> None:
    given = [OrderedDict(n=1), {"n": 2}]
    (output,) = run(f"from collections import OrderedDict\ndef f(rows): return {given!r}", COUNTED, as_="rows")
    assert output.batch["n"].to_pylist() == [1, 2]
