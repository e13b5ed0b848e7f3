"""What functions get and give under each convention."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import pyarrow as pa
import pytest
from conftest import write_module

NUMBERS = pa.record_batch({"n": pa.array([1, 2, 3], pa.int32()), "s": ["a", None, "c"]})

EVERYTHING = pa.record_batch(
    {
        "int8": pa.array([1, 2, 3], pa.int8()),
        "int64_null": pa.array([2**60 + 1, None, 3], pa.int64()),
        "uint16_null": pa.array([1, None, 3], pa.uint16()),
        "uint64": pa.array([2**64 - 1, 0, 1], pa.uint64()),
        "float32": pa.array([0.1, 2, 3], pa.float32()),
        "float64_null": pa.array([1.5, None, 3], pa.float64()),
        "bool": pa.array([True, False, True]),
        "bool_null": pa.array([True, None, False]),
        "string": pa.array(["a", None, "ü"]),
        "large_string": pa.array(["a", None, "b"], pa.large_string()),
        "binary": pa.array([b"\xff", None, b""]),
        "decimal": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("2.25")], pa.decimal128(10, 2)),
        "date": pa.array([dt.date(2024, 1, 1), None, dt.date(1969, 12, 31)]),
        "date64": pa.array([dt.date(2024, 1, 1), None, dt.date(1969, 12, 31)], pa.date64()),
        "time": pa.array([dt.time(1, 2, 3, 4), None, dt.time(0)], pa.time64("us")),
        "time32": pa.array([dt.time(1, 2, 3), None, dt.time(0)], pa.time32("s")),
        "naive": pa.array([dt.datetime(2024, 1, 1, 1), None, dt.datetime(1969, 1, 1)], pa.timestamp("us")),
        "milli": pa.array([dt.datetime(2024, 1, 1, 1), None, dt.datetime(1969, 1, 1)], pa.timestamp("ms")),
        "nano": pa.array([1, None, 3], pa.timestamp("ns")),
        "zoned": pa.array([1, None, 3], pa.timestamp("us", "Europe/Berlin")),
        "utc": pa.array([1, None, 3], pa.timestamp("us", "UTC")),
        "duration": pa.array([1, None, 3], pa.duration("ms")),
        "list": pa.array([[1, None], None, []], pa.list_(pa.int32())),
        "vector": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float32(), 2)),
        "struct": pa.array(
            [{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}], pa.struct({"a": pa.int16(), "b": pa.string()})
        ),
        "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int32())),
    }
)

IDENTITY = "def f(x):\n    return x\n"


@pytest.mark.parametrize("convention", ["row", "rows", "arrow", "pandas", "polars", "numpy"])
def test_untouched_columns_keep_type_and_value(stage: Any, convention: str) -> None:
    result = stage(IDENTITY, as_=convention).run(EVERYTHING)
    assert result.batch.schema == EVERYTHING.schema
    for name in EVERYTHING.schema.names:
        assert result.batch.column(name).equals(EVERYTHING.column(name)), name
    assert result.rows == 3


@pytest.mark.parametrize("convention", ["row", "rows", "arrow", "pandas", "polars", "numpy"])
def test_slices_of_every_type(stage: Any, convention: str) -> None:
    result = stage(IDENTITY, as_=convention).run(EVERYTHING.slice(1, 2))
    assert result.batch.equals(EVERYTHING.slice(1, 2))


@pytest.mark.parametrize("convention", ["arrow", "pandas", "polars", "numpy"])
def test_a_batch_without_rows_keeps_its_columns(stage: Any, convention: str) -> None:
    result = stage(IDENTITY, as_=convention).run(EVERYTHING.slice(0, 0))
    assert result.batch.num_rows == 0
    assert result.batch.schema.names == EVERYTHING.schema.names


@pytest.mark.parametrize("convention", ["row", "rows"])
def test_a_batch_without_rows_gives_no_batch(stage: Any, convention: str) -> None:
    result = stage(IDENTITY, as_=convention).run(NUMBERS.slice(0, 0))
    assert result.batches == {} and result.error is None and result.rows == 0


def test_none_drops_a_row(stage: Any) -> None:
    result = stage("def f(x): return None", as_="row").run(NUMBERS)
    assert result.batches == {} and result.error is None and result.rows == 3


@pytest.mark.parametrize("convention", ["rows", "arrow", "pandas", "polars", "numpy"])
def test_a_forgotten_return_is_an_error_unless_nobody_reads_the_rows(stage: Any, convention: str) -> None:
    result = stage("def f(x): x", as_=convention).run(NUMBERS)
    assert result.error is not None and "is a `return` missing?" in result.error["message"]
    result = stage("def f(x): x", as_=convention, unread=True).run(NUMBERS)
    assert result.batches == {} and result.error is None and result.rows == 3


def test_arguments_that_do_not_fit_the_function_are_no_rows_fault(worker: Any, modules: Any) -> None:
    module = write_module(modules, "def f(row, shortest=1): return row")
    error = worker.open(f"{module}:f", with_={"shorttest": 2})
    assert "shorttest" in error["message"] and "cannot be called" in error["message"]


def test_row_drops_and_changes(stage: Any) -> None:
    worker = stage(
        """
        def f(row):
            if row["n"] == 2:
                return None
            return {"n": row["n"] * 10, "who": row["s"]}
        """
    )
    result = worker.run(NUMBERS)
    assert result.pylist() == [{"n": 10, "who": "a"}, {"n": 30, "who": "c"}]
    assert result.origins == {0: [0, 2]}


def test_one_to_one_rows_have_no_origin(stage: Any) -> None:
    assert stage(IDENTITY).run(NUMBERS).origins == {}


def test_row_gives_many_rows_from_one_changing_dict(stage: Any) -> None:
    worker = stage(
        """
        def f(row):
            for i in range(row["n"]):
                row["i"] = i
                yield row
        """
    )
    result = worker.run(NUMBERS)
    assert [(row["n"], row["i"]) for row in result.pylist()] == [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    assert result.origins == {0: [0, 1, 1, 2, 2, 2]}


def test_as_many_rows_as_came_in_but_not_row_by_row_have_an_origin(stage: Any) -> None:
    result = stage("def f(row): return [row] * (row['n'] - 1)").run(NUMBERS)
    assert result.origins == {0: [1, 2, 2]}


def test_a_row_may_lack_columns(stage: Any) -> None:
    result = stage("def f(row): return {'a': 1} if row['n'] == 1 else {'b': 'x', 'a': None}").run(NUMBERS)
    assert result.pylist() == [{"a": 1, "b": None}, {"a": None, "b": "x"}, {"a": None, "b": "x"}]


def test_an_all_null_column_has_the_null_type(stage: Any) -> None:
    assert stage("def f(row): return {'a': None}").run(NUMBERS).batch.schema.field("a").type == pa.null()


def test_changed_numbers_have_the_type_of_their_values(stage: Any) -> None:
    assert (
        stage("def f(row): return {'n': row['n'] * 1000000000000}").run(NUMBERS).batch.schema.field("n").type
        == pa.int64()
    )


def test_rows_may_be_reordered_and_generated(stage: Any) -> None:
    worker = stage("def f(rows):\n    yield from reversed(rows)", as_="rows")
    assert worker.run(NUMBERS).batch.equals(NUMBERS.take([2, 1, 0]))


def test_arrow_table_in_and_several_batches_out(stage: Any) -> None:
    worker = stage(
        """
        import pyarrow as pa

        def f(table: pa.Table):
            assert isinstance(table, pa.Table)
            return [table.slice(0, 1), table.slice(1).to_batches()[0]]
        """
    )
    assert worker.run(NUMBERS).batch.equals(NUMBERS)


def test_arrow_decodes_dictionaries_and_drops_metadata(stage: Any) -> None:
    worker = stage(
        """
        import pyarrow as pa

        def f(batch: pa.RecordBatch):
            words = batch.column("s").dictionary_encode()
            lists = pa.ListArray.from_arrays([0, 1, 2, 3], words)
            out = pa.record_batch({"s": words, "lists": lists, "period": pa.array([b"1" * 16] * 3, pa.uuid())})
            return out.replace_schema_metadata({"a": "b"})
        """
    )
    schema = worker.run(NUMBERS).batch.schema
    assert schema.field("s").type == pa.string()
    assert schema.field("lists").type == pa.list_(pa.string())
    assert schema.field("period").type == pa.binary(16)
    assert schema.metadata is None


def test_pandas_integers_with_nulls_are_nullable_and_without_are_plain(stage: Any) -> None:
    worker = stage(
        """
        import pandas as pd

        def f(df: pd.DataFrame) -> pd.DataFrame:
            return pd.DataFrame({"types": [str(df[c].dtype) for c in ("int8", "int64_null", "bool_null")]})
        """
    )
    assert worker.run(EVERYTHING).batch.column("types").to_pylist() == ["int8", "Int64", "boolean"]


def test_pandas_results_have_no_index_and_no_pandas_metadata(stage: Any) -> None:
    worker = stage(
        """
        import pandas as pd

        def f(df: pd.DataFrame):
            df["n"] += 1
            df.loc[df["n"] == 2, "n"] = 7
            return df.set_index("s", drop=False).sort_values("n", ascending=False)
        """
    )
    batch = worker.run(NUMBERS).batch
    assert batch.to_pydict() == {"n": [7, 4, 3], "s": ["a", "c", None]}
    assert batch.schema == NUMBERS.schema and batch.schema.metadata is None


def test_pandas_categories_are_decoded(stage: Any) -> None:
    worker = stage("def f(df): return df.assign(s=df['s'].astype('category'))", as_="pandas")
    assert worker.run(NUMBERS).batch.equals(NUMBERS)


def test_polars_columns_have_plain_types_unless_they_had_others(stage: Any) -> None:
    worker = stage(
        """
        import polars as pl

        def f(df: pl.DataFrame) -> pl.DataFrame:
            assert isinstance(df, pl.DataFrame)
            return df.select(
                large_string=pl.col("large_string").str.to_uppercase(),
                int8=pl.col("int8") + 1,
                text=pl.concat_str("string", pl.lit("!")),
                texts=pl.concat_list("string", "string"),
                category=pl.col("string").cast(pl.Categorical),
                float32=pl.col("float64_null").is_nan(),
                pair=pl.struct("string", "date"),
            )
        """
    )
    batch = worker.run(EVERYTHING).batch
    assert batch.schema == pa.schema(
        {
            "large_string": pa.large_string(),
            "int8": pa.int8(),
            "text": pa.string(),
            "texts": pa.list_(pa.string()),
            "category": pa.string(),
            "float32": pa.bool_(),
            "pair": pa.struct({"string": pa.string(), "date": pa.date32()}),
        }
    )
    assert batch.column("large_string").to_pylist() == ["A", None, "B"]
    assert batch.column("text").to_pylist() == ["a!", None, "ü!"]
    assert batch.column("float32").to_pylist() == [False, None, False]


def test_numpy_masks_nulls_and_takes_matrices(stage: Any) -> None:
    worker = stage(
        """
        import numpy as np

        def f(columns: dict[str, np.ndarray]):
            assert isinstance(columns["int64_null"], np.ma.MaskedArray)
            assert columns["vector"].shape == (3, 2)
            return {"sum": columns["int64_null"] + 1, "matrix": columns["vector"] * 2, "c": np.array(["x", "y", "z"])}
        """
    )
    batch = worker.run(EVERYTHING).batch
    assert batch.column("sum").to_pylist() == [2**60 + 2, None, 4]
    assert batch.column("matrix").to_pylist() == [[2, 4], [6, 8], [10, 12]]
    assert batch.column("c").to_pylist() == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("parameter", "convention"),
    [
        ("x", "row"),
        ("x: dict", "row"),
        ("x: dict[str, object]", "row"),
        ("x: 'list[dict]'", "rows"),
        ("x: list", "rows"),
        ("x: list[dict[str, int]]", "rows"),
        ("x: pd.DataFrame", "pandas"),
        ("x: 'pd.DataFrame'", "pandas"),
        ("x: 'pandas.DataFrame'", "pandas"),
        ("x: pl.DataFrame", "polars"),
        ("x: 'pl.DataFrame'", "polars"),
        ("x: 'polars.DataFrame'", "polars"),
        ("x: pl.Series", "row"),
        ("x: pa.RecordBatch", "arrow"),
        ("x: 'pa.Table'", "arrow"),
        ("x: dict[str, np.ndarray]", "numpy"),
        ("x: 'dict[str, np.ndarray]'", "numpy"),
        ("x: Row", "row"),
    ],
)
def test_the_convention_is_inferred(worker: Any, modules: Any, parameter: str, convention: str) -> None:
    from conftest import write_module

    imports = (
        "import numpy as np, pandas as pd, polars as pl, pyarrow as pa, typing\nclass Row(typing.TypedDict): pass\n"
    )
    is_unresolved = "pandas." in parameter or "polars." in parameter
    module = write_module(modules, f"{'' if is_unresolved else imports}def f({parameter}): ...")
    assert worker.open(f"{module}:f") == {"as": convention, "class": False}


def test_a_class_is_built_once_and_closed(stage: Any) -> None:
    worker = stage(
        """
        import pandas as pd

        class Model:
            def __init__(self, factor):
                self.factor = factor
                print("built")

            def __call__(self, df: pd.DataFrame):
                return df.assign(n=df["n"] * self.factor)

            def close(self):
                print("closed")
        """,
        "Model",
        with_={"factor": 2},
    )
    assert worker.run(NUMBERS).batch.column("n").to_pylist() == [2, 4, 6]
    assert worker.run(NUMBERS).batch.column("n").to_pylist() == [2, 4, 6]
    assert worker.stop() == {"pid": worker.pid, "status": 0, "signal": None}
    assert worker.output() == "built\nclosed\n"


def test_with_gives_keyword_arguments(stage: Any) -> None:
    worker = stage("def f(row, factor): return {'n': row['n'] * factor}", with_={"factor": 3})
    assert worker.run(NUMBERS).batch.column("n").to_pylist() == [3, 6, 9]


def test_ports(stage: Any) -> None:
    worker = stage("def f(row): return {'odd' if row['n'] % 2 else 'out': row}", ports=["out", "odd"])
    result = worker.run(NUMBERS)
    assert result.batches[0].column("n").to_pylist() == [2]
    assert result.batches[1].column("n").to_pylist() == [1, 3]
    assert result.origins == {0: [1], 1: [0, 2]}


RETURNS = [["n", "decimal(10,2)"], ["s", "string"]]


@pytest.mark.parametrize(
    ("convention", "code"),
    [
        ("row", "{'n': row['n']}"),
        ("rows", "[{'n': r['n'], 's': None} for r in row]"),
        ("pandas", "row"),
        ("polars", "row"),
        ("arrow", "row"),
    ],
)
def test_returns_decides_the_types(stage: Any, convention: str, code: str) -> None:
    worker = stage(f"def f(row): return {code}", as_=convention, returns=RETURNS)
    schema = worker.run(NUMBERS).batch.schema
    assert schema == pa.schema({"n": pa.decimal128(10, 2), "s": pa.string()})


@pytest.mark.parametrize(
    ("convention", "code", "message", "row"),
    [
        ("row", "{'n': 'x' if row['n'] == 2 else 1}", "column `n`, row 2 of the result", 1),
        ("rows", "[{'n': 1}, {'n': 'x'}]", "column `n`, row 2 of the result", None),
        ("row", "{'n': 1, 'more': 2}", "column `more`: is not declared", None),
        ("arrow", "row", "column `s`: is not declared", None),
        ("pandas", "row[[]].assign(x=1)", "column `x`: is not declared", None),
        ("row", "7", "returned `int`", 0),
        ("row", "'text'", "returned `str`", 0),
        ("rows", "7", "returned `int`", None),
        ("arrow", "7", "returned `int`", None),
        ("pandas", "[1]", "returned `list`", None),
        ("polars", "[1]", "returned `list`", None),
        ("polars", "row.lazy()", "returned a `LazyFrame`", None),
        ("polars", "__import__('polars').DataFrame({'n': [object()] * 3})", "holds Python objects", None),
        ("numpy", "[1]", "returned `list`", None),
        ("row", "{1: 2}", "column names are strings", None),
    ],
)
def test_what_does_not_fit_is_a_schema_error(
    stage: Any, convention: str, code: str, message: str, row: int | None
) -> None:
    worker = stage(f"def f(row): return {code}", as_=convention, returns=[["n", "int64"]])
    error = worker.run(NUMBERS).error
    assert error["verdict"] == "schema"
    assert message in error["message"]
    assert error["row"] == row
    assert error["traceback"].startswith("millpond.SchemaError: ")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("int64", "2.0", "1.5"),
        ("int8", "Decimal('2')", "Decimal('2.5')"),
        ("bool", "1", "1.5"),
        ("bool", "0.0", "2"),
        ("date", "datetime(2026, 1, 2)", "datetime(2026, 1, 2, 3)"),
        ("decimal(5,1)", "1.5", "1.25"),
    ],
)
@pytest.mark.parametrize("convention", ["row", "rows"])
def test_a_value_that_would_lose_something_does_not_fit(
    stage: Any, convention: str, kind: str, good: str, bad: str
) -> None:
    imports = "from datetime import datetime; from decimal import Decimal"
    result = "{{'n': {}}}" if convention == "row" else "[{{'n': {}}}] * 3"
    for value, fits in [(good, True), (bad, False)]:
        code = f"{imports}\ndef f(row): return {result.format(value)}"
        answer = stage(code, as_=convention, returns=[["n", kind]]).run(NUMBERS)
        if fits:
            assert len(answer.batch) == 3
        else:
            assert answer.error["verdict"] == "schema" and "column `n`, row 1 of the result" in answer.error["message"]


def test_mixed_types_name_column_and_row(stage: Any) -> None:
    error = stage("def f(row): return [row, {'n': {1}, 's': row['n'] if row['n'] == 3 else None}]").run(NUMBERS).error
    assert error["verdict"] == "schema" and error["row"] == 0
    assert error["message"].startswith("column `n`, row 2 of the result: ")


def test_columns_of_different_lengths(stage: Any) -> None:
    error = stage("def f(x): return {'a': [1, 2], 'b': [1]}", as_="numpy").run(NUMBERS).error
    assert error["verdict"] == "schema" and "`a` has 2, `b` has 1" in error["message"]


def test_a_conversion_error_leaves_the_worker_usable(stage: Any) -> None:
    worker = stage("def f(row): return {'n': object() if row['n'] == 2 else 1}")
    assert worker.run(NUMBERS).error["verdict"] == "schema"
    assert worker.run(NUMBERS.slice(0, 1)).pylist() == [{"n": 1}]


def test_rows_without_columns_are_an_error(stage: Any) -> None:
    result = stage("def f(batch): return batch.select([])", as_="arrow").run(NUMBERS)
    assert result.error is not None and "3 rows without any column" in result.error["message"]
