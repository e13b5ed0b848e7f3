"""State that all workers of a run share: `millpond.counter("skipped").add()`, `millpond.state.map("seen")`.

What an attempt adds stays in its worker until it has ended well, and goes to the coordinator with its rows: so it
counts once, whatever is tried again, and costs no message of its own. Outside a run, it is the state of this process.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from .line import checked_name
from .state_parts import Counter, Map, Part, Quantiles, Set, Top, Update, begin_row, row_at_hand

if TYPE_CHECKING:
    import pyarrow as pa

AnyPart = TypeVar("AnyPart", bound=Part)
Item = TypeVar("Item")


class State:
    """`millpond.state`: the parts of the state, by kind and name. Those of different kinds may have the same name."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, str], Part] = {}

    def counter(self, name: str) -> Counter:
        return self._part(Counter, name)

    def map(self, name: str) -> Map:
        return self._part(Map, name)

    def set(self, name: str) -> Set:
        return self._part(Set, name)

    def top(self, name: str) -> Top:
        return self._part(Top, name)

    def quantiles(self, name: str) -> Quantiles:
        return self._part(Quantiles, name)

    def _part(self, kind: type[AnyPart], name: str) -> AnyPart:
        part = self._parts.get((kind.kind, checked_name(name)))
        if part is None:
            part = self._parts.setdefault((kind.kind, name), kind(name))
        assert isinstance(part, kind), "they are kept by kind"
        return part

    def reset(self) -> None:
        """Outside a run: all parts are as at first."""
        for part in list(self._parts.values()):
            part._reset()

    def begin(self) -> None:
        """For the worker: what was done before belongs to no attempt that counts."""
        for part in self._parts.values():
            part._drop()

    def take(self) -> pa.RecordBatch | None:
        """For the worker: what the attempt has done, as rows of `kind`, `name` and `update`, of which each is JSON."""
        import json

        import pyarrow as pa

        # Others may make a part meanwhile, in threads of their own.
        done = [(part, update) for part in list(self._parts.values()) for update in part._take()]
        if not done:
            return None
        columns = {
            "kind": [part.kind for part, _ in done],
            "name": [part.name for part, _ in done],
            "update": [json.dumps(update) for _, update in done],
        }
        return pa.record_batch(columns, schema=pa.schema([(column, pa.string()) for column in columns]))


state = State()


def counter(name: str) -> Counter:
    """The counter of this name: `millpond.counter("skipped").add()`."""
    return state.counter(name)


# What a row has done.
Done = list[tuple[Part, Update]]


class Apart:
    """Keeps what a row does apart from what others do, so that it counts only if the row does."""

    def __init__(self) -> None:
        self._token: contextvars.Token[Done | None] | None = None

    def begin(self) -> None:
        """From here on it is another row."""
        self._token = begin_row()

    def end(self) -> Done:
        """What the row has done, for `count`."""
        done = row_at_hand.get() or []
        if self._token is not None:
            row_at_hand.reset(self._token)
            self._token = None
        return done


def count(done: Done) -> None:
    """A row counts."""
    for part, update in done:
        part._fold(update)


def each(rows: Iterator[Item]) -> Iterator[Item]:
    """The rows, one apart from the other. `forget_row` for those that do not count."""
    apart = Apart()
    try:
        for row in rows:
            count(apart.end())
            apart.begin()
            yield row
    finally:
        count(apart.end())


def forget_row() -> None:
    """What the row at hand has done does not count."""
    done = row_at_hand.get()
    if done is not None:
        done.clear()
