"""The conventions of `as`: what a function gets, and how what it returns becomes a batch again.

Each codec is a class with `give` (batch -> argument) and `take` (result -> batch). Columns that a function passes on
untouched keep their Arrow type, however the convention widens them in between.
"""

from __future__ import annotations

from typing import Any, Protocol

import pyarrow as pa

from ..errors import StageError
from .values import Given


class Codec(Protocol):
    """How one convention reads and writes batches. Keeps nothing between batches."""

    def give(self, batch: pa.RecordBatch) -> tuple[Any, Given]:
        """The argument for the function, and a note of what is in it."""

    def take(self, result: Any, given: Given) -> pa.RecordBatch | None:
        """The batch that `result` stands for, or `None` for no rows of unknown columns."""


def codec(convention: str, declared: pa.Schema | None, *, as_table: bool = False) -> Codec:
    """The codec of a convention; imports pandas, polars or numpy only if the convention is about them."""
    if convention in ("row", "rows"):
        from .dicts import DictCodec

        return DictCodec(declared)
    if convention in ("arrow", "stream"):
        from .arrow import ArrowCodec

        return ArrowCodec(as_table)
    if convention == "pandas":
        from .dataframe import DataFrameCodec

        return DataFrameCodec()
    if convention == "polars":
        try:
            from .polars_frame import PolarsCodec
        except ModuleNotFoundError as error:
            raise StageError(f"`as: polars` needs polars ({error}); add it to `python: {{ requirements }}`") from None

        return PolarsCodec()
    if convention == "numpy":
        from .arrays import ArraysCodec

        return ArraysCodec()
    raise StageError(
        f"`{convention}` is not a convention; `as` is one of row, rows, arrow, pandas, polars, numpy, stream"
    )
