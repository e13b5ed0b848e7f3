"""The parts of the state of a run, kind by kind: counters, maps, sets, top items and quantiles.

Start reading at `Part`. Where rows are apart from each other, what a row does counts only if the row does.
"""

from __future__ import annotations

import contextvars
import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .errors import MillpondError
from .line import line
from .state_values import INT_MAX, Key, Number, checked_key, checked_number, copy_of

# What was done to a part of the state: [what, …].
Update = list[Any]

# What the row at hand has done, where rows are apart.
row_at_hand: contextvars.ContextVar[list[tuple[Part, Update]] | None] = contextvars.ContextVar("row", default=None)
# Whether rows have been apart in this process.
_are_apart = False


def begin_row() -> contextvars.Token[list[tuple[Part, Update]] | None]:
    """From here on it is another row, apart from the others."""
    global _are_apart
    _are_apart = True
    return row_at_hand.set([])


class Part:
    """A named part of the state.

    Users have what has no underscore; the rest is for `run_state`. What the attempt has done so far is in `_added`,
    in the form that suits the kind: `_nothing` at first, to which `_fold` puts updates and of which `_told` makes some.
    """

    kind = ""

    def __init__(self, name: str) -> None:
        self.name = name
        self._added: Any = self._nothing()
        # Outside a run.
        self._local: Any = None

    def _fold(self, update: Update) -> None:
        """Something that counts if the attempt does."""
        raise NotImplementedError

    def _take(self) -> list[Update]:
        """What this attempt has done; it is forgotten here."""
        added, self._added = self._added, self._nothing()
        return self._told(added)

    def _drop(self) -> None:
        """What was done counts for nothing."""
        self._added = self._nothing()

    def _reset(self) -> None:
        """Outside a run: as at first."""
        self._drop()
        self._local = None

    def _nothing(self) -> Any:
        raise NotImplementedError

    def _told(self, added: Any) -> list[Update]:
        raise NotImplementedError

    def _apply(self, value: Any, update: Update) -> Any:
        """What the update makes of a value, which is `None` at first."""
        raise NotImplementedError

    def _decode(self, value: Any) -> Any:
        """A value as the coordinator tells it."""
        return value

    def _do(self, update: Update) -> None:
        row = row_at_hand.get()
        if row is None:
            self._fold(update)
        else:
            row.append((self, update))

    def _read(self) -> Any:
        """As it is for this attempt: what counts already, and what the attempt and the row at hand have done so far."""
        here = line()
        if here is None:
            for update in self._take():
                self._local = self._apply(self._local, update)
            return copy.deepcopy(self._local)
        value = self._decode(_answered(here.ask({"op": "read", "kind": self.kind, "name": self.name})))
        of_row = [update for part, update in row_at_hand.get() or () if part is self]
        for update in [*self._told(self._added), *of_row]:
            value = self._apply(value, update)
        return value

    def _counted(self, number: Number) -> Number:
        """What several have come to, if it can be told."""
        try:
            return checked_number(number)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{self.kind} `{self.name}`: {error}") from None

    def _sum(self, a: Number, b: Number) -> Number:
        """Within what the coordinator counts with."""
        total = a + b
        is_in_range = math.isfinite(total) if isinstance(total, float) else -INT_MAX - 1 <= total <= INT_MAX
        if not is_in_range:
            raise MillpondError(f"{self.kind} `{self.name}` of the state goes beyond 64 bits")
        return total


class Counter(Part):
    """A number, 0 at first. Sums of floats are right up to rounding, as their order depends on timing."""

    kind = "counter"

    def add(self, amount: Number = 1) -> None:
        is_plain = type(amount) is int or type(amount) is float
        if is_plain and (not _are_apart or row_at_hand.get() is None):
            self._added += amount  # Called for every row: what it has come to is checked when it is told.
        else:
            self._do(["add", checked_number(amount)])

    @property
    def value(self) -> Number:
        value: Number = self._read() or 0
        return value

    @value.setter
    def value(self, _: Number) -> None:
        raise AttributeError(
            f"counter `{self.name}` cannot be set, as all workers change it: add to it, "
            f"`millpond.counter({self.name!r}).add(1)`"
        )

    def _fold(self, update: Update) -> None:
        self._added += update[1]

    def _nothing(self) -> Any:
        return 0

    def _told(self, added: Any) -> list[Update]:
        return [["add", self._counted(added)]] if added else []

    def _apply(self, value: Any, update: Update) -> Any:
        return self._sum(value or 0, update[1])


class Map(Part):
    """A dict from text or whole numbers to values. `add`, `max` and `min` give the same whatever the order in which
    batches are done; what `set` and `remove` do is done in the order of a stage's batches."""

    kind = "map"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        # Where in `_added` the last update of each key is.
        self._last: dict[Key, int] = {}

    def add(self, key: Key, amount: Number = 1) -> None:
        """Adds to the number of this key, 0 at first."""
        self._do(["add", checked_key(key), checked_number(amount)])

    def max(self, key: Key, value: Number) -> None:
        """Keeps the greater number."""
        self._do(["max", checked_key(key), checked_number(value)])

    def min(self, key: Key, value: Number) -> None:
        """Keeps the smaller number."""
        self._do(["min", checked_key(key), checked_number(value)])

    def set(self, key: Key, value: Any) -> None:
        """Any value that JSON has."""
        self._do(["set", checked_key(key), copy_of(value)])

    def update(self, values: Mapping[Key, Any]) -> None:
        for key, value in values.items():
            self.set(key, value)

    def remove(self, key: Key) -> None:
        self._do(["remove", checked_key(key)])

    def compare_and_set(self, key: Key, expected: Any, value: Any) -> bool:
        """Sets the value of a key if it is `expected` (`None`: if there is none); whether it was.

        Done at once, for all workers to see, and not undone if the attempt fails: let the value tell whose it is, and
        be the same in every attempt, so that a retry finds its own. For whole batches that is `millpond.batch_id`; for
        single rows, that and something of the row, as all rows of a batch have the same.
        """
        here = line()
        if here is None:
            self._read()
            if (self._local or {}).get(checked_key(key)) != expected:
                return False
            self._local = self._apply(self._local, ["set", checked_key(key), copy_of(value)])
            return True
        what = {"key": checked_key(key), "expected": copy_of(expected), "value": copy_of(value)}
        return bool(_answered(here.ask({"op": "compare_and_set", "name": self.name, **what})))

    def get(self, key: Key, default: Any = None) -> Any:
        return self.to_dict().get(checked_key(key), default)

    def __getitem__(self, key: Key) -> Any:
        return self.to_dict()[checked_key(key)]

    def __setitem__(self, key: Key, value: Any) -> None:
        raise TypeError(
            f"map `{self.name}` is not set like a dict: `set(key, value)` sets a value, and `add(key, n)` adds to the "
            "number of a key, whoever else does so"
        )

    def __delitem__(self, key: Key) -> None:
        raise TypeError(f"a key of map `{self.name}` is removed by `remove(key)`")

    def __contains__(self, key: Key) -> bool:
        return key in self.to_dict()

    def __len__(self) -> int:
        return len(self.to_dict())

    def to_dict(self) -> dict[Key, Any]:
        return dict(self._read() or {})

    def _fold(self, update: Update) -> None:
        """What follows upon an update of the same kind to the same key is put to it."""
        what, key = update[0], update[1]
        at = self._last.get(key) if self._added else None
        last = None if at is None else self._added[at]
        if last is not None and last[0] == what and what in _NUMERIC:
            last[2] = _NUMERIC[what](last[2], update[2])
            return
        if not self._added:
            self._last = {}
        self._last[key] = len(self._added)
        self._added.append(list(update))

    def _nothing(self) -> Any:
        return []

    def _told(self, added: Any) -> list[Update]:
        for update in added:
            if update[0] in _NUMERIC:
                self._counted(update[2])
        return list(added)

    def _decode(self, value: Any) -> Any:
        return _dict(value)

    def _apply(self, value: Any, update: Update) -> Any:
        value = dict(value or {})
        what, key = update[0], update[1]
        if what == "remove":
            value.pop(key, None)
        elif what in _NUMERIC and value.get(key) is not None:
            old = value[key]
            if isinstance(old, bool) or not isinstance(old, (int, float)):
                raise MillpondError(f"map `{self.name}` of the state has something at `{key}` that is no number")
            value[key] = self._sum(old, update[2]) if what == "add" else _NUMERIC[what](old, update[2])
        else:
            value[key] = update[2]
        return value


_NUMERIC: dict[str, Callable[[Any, Any], Any]] = {"add": lambda a, b: a + b, "max": max, "min": min}


class Set(Part):
    """A set of texts and whole numbers."""

    kind = "set"

    def add(self, item: Key) -> None:
        self._do(["add", checked_key(item)])

    def update(self, items: Iterable[Key]) -> None:
        for item in items:
            self.add(item)

    def __contains__(self, item: Key) -> bool:
        return item in self.to_set()

    def __len__(self) -> int:
        return len(self.to_set())

    def to_set(self) -> set[Key]:
        return set(self._read() or ())

    def _fold(self, update: Update) -> None:
        self._added[update[1]] = None

    def _nothing(self) -> Any:
        return {}  # It keeps the order.

    def _told(self, added: Any) -> list[Update]:
        return [["add", item] for item in added]

    def _apply(self, value: Any, update: Update) -> Any:
        return {*(value or ()), update[1]}


class _Counts(Part):
    """How often each item came."""

    def _fold(self, update: Update) -> None:
        self._added[update[1]] = self._added.get(update[1], 0) + update[2]

    def _nothing(self) -> Any:
        return {}

    def _told(self, added: Any) -> list[Update]:
        return [["add", item, self._counted(count)] for item, count in added.items()]

    def _decode(self, value: Any) -> Any:
        return _dict(value)

    def _apply(self, value: Any, update: Update) -> Any:
        value = dict(value or {})
        value[update[1]] = self._sum(value.get(update[1], 0), update[2])
        return value


class Top(_Counts):
    """The items with the highest counts. Exact as long as there are at most 10,000 different ones; of more, a count may
    be too high by what one of 10,000 would have if all had the same."""

    kind = "top"

    def add(self, item: Key, amount: int = 1) -> None:
        if not isinstance(amount, int) or amount < 1:
            raise ValueError(f"an item is counted by whole numbers of 1 or more, and not {amount!r}")
        self._do(["add", checked_key(item), checked_number(amount)])

    def most_common(self, count: int = 10) -> list[tuple[Key, int]]:
        """The highest first; of equal ones, those that sort first."""
        counts: dict[Key, int] = self._read() or {}
        return sorted(counts.items(), key=lambda one: (-one[1], isinstance(one[0], str), one[0]))[:count]


class Quantiles(_Counts):
    """How numbers are distributed, each within 1 % of its value, in little memory. What is counted are buckets."""

    kind = "quantiles"

    def add(self, value: Number) -> None:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{value!r} has no place among numbers")
        self._do(["add", _bucket(number), 1])

    @property
    def count(self) -> int:
        value = self._read() or {}
        return sum(value.values())

    def quantile(self, part: float) -> float | None:
        """The number that `part` (0 to 1) of all are not above; `None` if there are none."""
        if not 0 <= part <= 1:
            raise ValueError(f"a quantile is a number from 0 to 1, and not {part!r}")
        buckets = sorted((self._read() or {}).items(), key=lambda one: _middle(one[0]))
        rank = part * (sum(count for _, count in buckets) - 1)
        for bucket, count in buckets:
            if rank < count:
                return _middle(bucket)
            rank -= count
        return _middle(buckets[-1][0]) if buckets else None


# Buckets as in DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
# guarantees", 2019): each is as wide as 2 % of its numbers, so that its middle is within 1 % of all of them.
_ACCURACY = 0.01
_GAMMA = (1 + _ACCURACY) / (1 - _ACCURACY)
_LOG_GAMMA = math.log(_GAMMA)


def _bucket(number: float) -> str:
    if number == 0:
        return "0"
    index = math.ceil(math.log(abs(number)) / _LOG_GAMMA)
    return f"{'-' if number < 0 else '+'}{index}"


def _middle(bucket: str) -> float:
    if bucket == "0":
        return 0.0
    size = 2 * math.exp(int(bucket[1:]) * _LOG_GAMMA) / (_GAMMA + 1)
    return -size if bucket[0] == "-" else size


def _dict(pairs: Any) -> dict[Any, Any]:
    return {key: value for key, value in pairs or []}


def _answered(answer: dict[str, Any]) -> Any:
    if "wrong" in answer:
        raise MillpondError(answer["wrong"])
    return answer["value"]
