"""Random numbers of functions that are called row by row: each row draws its own, with whatever rows it is run.

To seed the generators takes longer than a fast function, and few functions draw. So a function is trusted not to draw
until it does; the rows that it drew for with the numbers of another row are run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from . import context

# For so few rows, to look whether the function draws takes longer than to seed them all.
_FEW = 8


class Draws:
    """Whether the function of a stage draws random numbers, as far as it is known."""

    def __init__(self) -> None:
        self._known = False
        self._looked = False
        self._before: object = None

    def each(self, rows: Iterator[dict[str, Any]], numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
        """The rows, each with its random numbers where the function is known to draw. `numbers` are the places of the
        rows in the batch."""
        self._before = None
        pairs = zip(numbers, rows, strict=True)
        if not self._known and len(numbers) > _FEW:
            if not self._looked:
                yield from self._look(*next(pairs))
            if not self._known:
                self._before = context.drawn()
                yield from rows
                return
        for number, row in pairs:
            context.seed_row(number)
            yield row

    def _look(self, number: int, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """One row, to see whether the function draws: most of those that do draw for every row."""
        self._looked = True
        context.seed_row(number)
        before = context.drawn()
        yield row
        self._known = context.drawn() != before

    def were_missed(self) -> bool:
        """Whether the function has drawn in `each` for a row without random numbers of its own: then it is known to."""
        if self._known or self._before is None:
            return False
        self._known = self._before != context.drawn()
        return self._known
