"""The tables of `docs/types.md` on functions, cell by cell. `tests/types.rs` has those on files."""

from __future__ import annotations

import datetime
import decimal
import math
import re
import zoneinfo
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from millpond.codecs.arrays import ArraysCodec
from millpond.codecs.dataframe import DataFrameCodec
from millpond.codecs.dicts import DictCodec
from millpond.codecs.polars_frame import PolarsCodec
from millpond.codecs.table import finish
from millpond.codecs.values import Given
from millpond.column_types import column_type
from millpond.errors import SchemaError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "types.md"
ERROR = "an error"


def tables(heading: str) -> list[list[dict[str, str]]]:
    """The tables below a heading: their rows, each a mapping from the names of columns to cells."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    found: list[list[dict[str, str]]] = []
    assert section, heading
    for block in re.findall(r"(?:^\|.*\n)+", section.split("\n## ")[0], re.MULTILINE):
        header, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines())
        found.append([dict(zip(header, row, strict=True)) for row in rows])
    return found


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
NOON = datetime.datetime(2024, 1, 31, 12)
# Two values for each type of Arrow, which are not equal.
VALUES: dict[str, list[Any]] = {
    "bool": [True, False],
    "int8": [-128, 127],
    "int16": [-(2**15), 2**15 - 1],
    "int32": [-(2**31), 2**31 - 1],
    "int64": [2**53 + 1, -(2**63)],
    "uint8": [0, 255],
    "uint16": [0, 2**16 - 1],
    "uint32": [0, 2**32 - 1],
    "uint64": [0, 2**64 - 1],
    "halffloat": [np.float16(0.5), np.float16(2)],
    "float": [0.1, -2.0],
    "double": [0.1, 1e300],
    "string": ["007", "é"],
    "large_string": ["007", "é"],
    "string_view": ["007", "longer than twelve bytes"],
    "binary": [b"\x00\xff", b"a"],
    "large_binary": [b"\x00\xff", b"a"],
    "date32[day]": [NOON.date(), datetime.date(1969, 12, 31)],
    "date64[ms]": [NOON.date(), datetime.date(1969, 12, 31)],
    "time64[us]": [datetime.time(7, 3, 0, 5), datetime.time(0)],
    "time32[s]": [datetime.time(7, 3), datetime.time(0)],
    "timestamp[us]": [NOON, datetime.datetime(1969, 12, 31, 23, 59, 59, 1)],
    "timestamp[s]": [NOON, datetime.datetime(1969, 12, 31, 23, 59, 59)],
    "timestamp[ms]": [NOON, datetime.datetime(1969, 12, 31, 23, 59, 59)],
    "timestamp[ns]": [1_700_000_000_123_456_789, -1],
    "timestamp[us, tz=UTC]": [1_700_000_000_123_456, -1],
    "timestamp[us, tz=Europe/Berlin]": [1_700_000_000_123_456, -1],
    "duration[us]": [datetime.timedelta(seconds=1), datetime.timedelta(days=-1)],
    "decimal128(12, 2)": [decimal.Decimal("1.50"), decimal.Decimal("-0.01")],
    "decimal256(50, 2)": [decimal.Decimal("1.50"), decimal.Decimal("-0.01")],
    "list<item: int64>": [[1, None], []],
    "list<item: string>": [["a", None], []],
    "fixed_size_list<item: float>[2]": [[1, 2], [3, 4]],
    "struct<a: int64, b: string>": [{"a": 1, "b": "x"}, {"a": None, "b": None}],
    "map<string, int32>": [[("k", 1)], []],
    "null": [None, None],
}
WITHOUT_WORDS: dict[str, pa.DataType] = {
    "null": pa.null(),
    "halffloat": pa.float16(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "large_binary": pa.large_binary(),
    "date64[ms]": pa.date64(),
    "time32[s]": pa.time32("s"),
    "timestamp[s]": pa.timestamp("s"),
    "timestamp[ms]": pa.timestamp("ms"),
    "timestamp[ns]": pa.timestamp("ns"),
    "duration[us]": pa.duration("us"),
    "decimal256(50, 2)": pa.decimal256(50, 2),
    "fixed_size_list<item: float>[2]": pa.list_(pa.float32(), 2),
    "struct<a: int64, b: string>": pa.struct([("a", pa.int64()), ("b", pa.string())]),
    "map<string, int32>": pa.map_(pa.string(), pa.int32()),
}
CODECS: dict[str, Any] = {
    "row": DictCodec(None),
    "pandas": DataFrameCodec(),
    "Polars": PolarsCodec(),
    "numpy": ArraysCodec(),
}


def typed_rows() -> list[dict[str, str]]:
    with_words, without_words = tables("In functions")
    return with_words + without_words


def cells() -> list[Any]:
    """Arrow type, column of the table, cell: of every cell that says something."""
    found = []
    for row in typed_rows():
        (kind,) = words(row["Arrow"])
        where = [name for name in row if name not in ("type", "Arrow") and row[name]]
        found += [pytest.param(kind, name, row[name], id=f"{kind}-{name}") for name in where]
    return found


def type_of(kind: str) -> pa.DataType:
    if kind in WITHOUT_WORDS:
        return WITHOUT_WORDS[kind]
    (word,) = [words(row["type"])[0] for row in typed_rows() if "type" in row and words(row["Arrow"]) == [kind]]
    return column_type(word)


def is_given(column: Any, cell: str, convention: str) -> bool:
    """Whether a column as a function sees it is what the cell says."""
    if convention == "row":
        names = {"datetime": datetime, "decimal": decimal, "pandas": pd, "None": None}
        expected = [eval(word, names) for word in words(cell)]
        return type(column[0]["c"]) in [type(None) if kind is None else kind for kind in expected]
    if convention == "pandas":
        return str(column["c"].dtype) in words(cell)
    if convention == "Polars":
        # Older versions do not have all types.
        known = [word for word in words(cell) if hasattr(pl, word.split("(")[0])]
        return column.schema["c"] in [eval(word, vars(pl)) for word in known]
    is_masked = isinstance(column["c"], np.ma.MaskedArray)
    return str(column["c"].dtype) in words(cell) and is_masked == cell.startswith("masked")


def test_the_tables_have_all_types() -> None:
    kinds = [words(row["Arrow"])[0] for row in typed_rows()]
    assert kinds == list(dict.fromkeys(kinds)) and set(kinds) == set(VALUES)
    for row in tables("In functions")[0]:
        assert str(column_type(words(row["type"])[0])) == words(row["Arrow"])[0]
    for kind, data_type in WITHOUT_WORDS.items():
        assert str(data_type) == kind


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("kind", "column", "cell"), cells())
def test_a_type_in_a_function(kind: str, column: str, cell: str) -> None:
    convention = column.split(",")[0]
    with_nulls = column.endswith("with nulls") or convention == "Polars"
    batch = pa.record_batch({"c": pa.array(VALUES[kind] + ([None] if with_nulls else []), type_of(kind))})
    codec = CODECS["row" if column == "`row`, `rows`" else convention]
    if cell == ERROR:
        with pytest.raises(SchemaError):
            codec.give(batch)
        return
    given, what = codec.give(batch)
    name = "row" if column == "`row`, `rows`" else convention
    assert is_given(given, cell, name), (given, cell)
    taken = finish(codec.take(given, what), None)
    assert taken.schema == batch.schema
    assert taken.equals(batch), (taken.to_pylist(), batch.to_pylist())


def made_cells() -> list[Any]:
    found = []
    for table in tables("What functions make"):
        convention = next(iter(table[0])).removeprefix("given by ").split(",")[0].strip("`")
        for row in table:
            value, kind = row.values()
            found.append(pytest.param(convention, words(value)[0], kind, id=f"{convention}-{words(value)[0]}"))
    return found


@pytest.mark.parametrize(("convention", "value", "kind"), made_cells())
def test_a_type_that_a_function_makes(convention: str, value: str, kind: str) -> None:
    names = {**vars(datetime), "Decimal": decimal.Decimal, "ZoneInfo": zoneinfo.ZoneInfo, "np": np, "pd": pd, "pl": pl}
    made = eval(value, names)
    result: Any = {
        "row": lambda: [{"c": made}],
        "pandas": lambda: pd.DataFrame({"c": made}),
        "Polars": lambda: pl.DataFrame({"c": made}),
        "numpy": lambda: {"c": made},
    }[convention]()
    codec = CODECS[convention]
    if kind == ERROR:
        with pytest.raises(SchemaError):
            codec.take(result, Given(None))
        return
    batch = finish(codec.take(result, Given(None)), None)
    assert str(batch.schema.field("c").type) in words(kind)


MEANT: dict[str, Any] = {"NaN": math.nan, "-inf": -math.inf, "empty text": "", "null": None}


def meaning_cells() -> list[Any]:
    (table,) = tables("Values with a meaning of their own")
    return [
        pytest.param(row["value"], column, cell, id=f"{row['value']}-{column}")
        for row in table
        for column, cell in row.items()
        if column != "value"
    ]


@pytest.mark.parametrize(("value", "column", "cell"), meaning_cells())
def test_a_value_with_a_meaning_of_its_own(stage: Any, value: str, column: str, cell: str) -> None:
    meant = MEANT[value.strip("`")]
    convention = {"`row`, `rows`": "row", "Arrow": "arrow"}.get(column, column.lower())
    batch = pa.record_batch({"c": pa.array([meant], pa.string() if meant == "" else pa.float64())})
    (row,) = stage("def f(x):\n    return x\n", as_=convention).run(batch).pylist()
    expected = MEANT[cell.strip("`")]
    assert row["c"] == expected or (expected != expected and row["c"] != row["c"]), row


def test_an_index_is_no_part_of_a_result() -> None:
    codec = DataFrameCodec()
    given, what = codec.give(pa.record_batch({"c": [1, 2, 3]}))
    taken = finish(codec.take(given.set_index(given["c"] * 10).iloc[::-1], what), None)
    assert taken.to_pydict() == {"c": [3, 2, 1]}
