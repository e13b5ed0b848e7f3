"""`millpond.reject`: rows that user code finds to be wrong, though nothing has gone wrong in the code."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import MillpondError, Rejected


class Batch:
    """The batch that a function is called on as a whole, and which of its rows it has rejected so far."""

    def __init__(self, rows: int, argument: Any) -> None:
        self._rows = rows
        self._argument = argument
        self._reasons: dict[int, str] = {}

    def add(self, row: Any, reason: str) -> None:
        for position in self._positions(row):
            if not 0 <= position < self._rows:
                raise MillpondError(
                    f"there is no row {position} to reject: the batch has {self._rows} rows, the first is 0"
                )
            self._reasons.setdefault(position, reason)

    def rejected(self) -> list[tuple[int, str]]:
        """The positions of the rows, ascending, each with its reason."""
        return sorted(self._reasons.items())

    def _positions(self, row: Any) -> Iterable[int]:
        if isinstance(row, Mapping):
            return [self._position_of(row)]
        if hasattr(row, "to_pylist"):
            row = row.to_pylist()
        elif hasattr(row, "tolist"):  # numpy, pandas
            row = row.tolist()
        several = row if isinstance(row, Iterable) and not isinstance(row, (str, bytes)) else [row]
        return [_position(one) for one in several]

    def _position_of(self, row: Mapping[Any, Any]) -> int:
        if isinstance(self._argument, list):
            for position, given in enumerate(self._argument):
                if given is row:
                    return position
        raise MillpondError(
            "the row to reject is none of the rows that the function was given; name it by its position, from 0"
        )


def _position(one: Any) -> int:
    if isinstance(one, bool):
        raise MillpondError("`millpond.reject` takes the positions of rows, and no mask of them: `df.index[mask]`")
    try:
        return operator.index(one)
    except TypeError:
        raise MillpondError(
            f"`millpond.reject` takes the position of a row, or several, and not {type(one).__name__}"
        ) from None


_batch: Batch | None = None


def enter(batch: Batch | None) -> None:
    """For the worker only: what the function is called on; `None` if it is called on rows, or may not reject any."""
    global _batch
    _batch = batch


def reject(row: Any, reason: str) -> None:
    """Says that a row is wrong, and why. What becomes of it is for `on_error` of the stage to say.

    In a function that is called for each row, this raises `Rejected`, and so ends the call; `row` is the row that the
    function was given. In one that is given whole batches, `row` is the position of a row in the batch, counted from 0,
    or several of them, or of `as: rows` the dict itself; the function goes on, and leaves the row out of what it gives.

    Outside a run, it always raises.
    """
    if not isinstance(reason, str):
        raise TypeError(f"the reason of `millpond.reject` is a text, and not {type(reason).__name__}")
    if _batch is None:
        raise Rejected(reason)
    _batch.add(row, reason)
