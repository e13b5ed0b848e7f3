"""State that all workers of a run share: `millpond.counter("skipped").add()`, `millpond.state.map("seen")`.

What an attempt adds stays in its worker until it has ended well, and goes to the coordinator with its rows: so it
counts once, whatever is tried again, and costs no message of its own. Outside a run, it is the state of this process.
"""

from __future__ import annotations

import contextvars
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import MillpondError
from .line import checked_name, line

if TYPE_CHECKING:
    import pyarrow as pa

Key = str | int
Number = int | float
# What was done to a part of the state: [what, …].
Update = list[Any]

_INT_MAX = (1 << 63) - 1

# Of the row at hand, where rows are apart from each other: what it has done, which counts if the row does.
_row: contextvars.ContextVar[list[tuple[Part, Update]] | None] = contextvars.ContextVar("row", default=None)


class Part:
    """A named part of the state."""

    kind = ""

    def __init__(self, name: str) -> None:
        self.name = name
        # Done in this attempt, and not yet sent.
        self._updates: list[Update] = []
        # Outside a run.
        self._local: Any = None

    def _do(self, update: Update) -> None:
        row = _row.get()
        if row is None:
            self._fold(update)
        else:
            row.append((self, update))

    def _fold(self, update: Update) -> None:
        self._updates.append(update)

    def _take(self) -> list[Update]:
        """What this attempt has done; it is forgotten here."""
        updates, self._updates = self._updates, []
        return updates

    def _drop(self) -> None:
        self._updates = []

    def _pending(self) -> list[Update]:
        """What this attempt, and the row at hand, have done so far."""
        row = _row.get() or ()
        return [*self._updates, *(update for part, update in row if part is self)]

    def _read(self) -> Any:
        """As it is for this attempt: what counts already, and what the attempt has done itself."""
        here = line()
        if here is None:
            for update in self._take():
                self._local = self._apply(self._local, update)
            return copy.deepcopy(self._local)
        value = self._decode(_answered(here.ask({"op": "read", "kind": self.kind, "name": self.name})))
        for update in self._pending():
            value = self._apply(value, update)
        return value

    def _reset(self) -> None:
        self._drop()
        self._local = None

    def _sum(self, a: Number, b: Number) -> Number:
        """Within what the coordinator counts with."""
        total = a + b
        is_in_range = math.isfinite(total) if isinstance(total, float) else -_INT_MAX - 1 <= total <= _INT_MAX
        if not is_in_range:
            raise MillpondError(f"{self.kind} `{self.name}` of the state goes beyond 64 bits")
        return total

    def _decode(self, value: Any) -> Any:
        return value

    def _apply(self, value: Any, update: Update) -> Any:
        raise NotImplementedError


class Counter(Part):
    """A number, 0 at first. Sums of floats are right up to rounding, as their order depends on timing."""

    kind = "counter"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._added: Number = 0

    def add(self, amount: Number = 1) -> None:
        is_plain = type(amount) is int or type(amount) is float
        if is_plain and (not _are_apart or _row.get() is None):
            self._added += amount  # Called for every row: what it has come to is checked when it is told.
        else:
            self._do(["add", _number(amount)])

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

    def _take(self) -> list[Update]:
        added, self._added = self._added, 0
        try:
            return [["add", _number(added)]] if added else []
        except (TypeError, ValueError) as error:
            raise type(error)(f"counter `{self.name}`: {error}") from None

    def _drop(self) -> None:
        self._added = 0

    def _pending(self) -> list[Update]:
        row = _row.get() or ()
        return [["add", self._added], *(update for part, update in row if part is self)]

    def _apply(self, value: Any, update: Update) -> Any:
        return self._sum(value or 0, update[1])


class Map(Part):
    """A dict from text or whole numbers to values. `add`, `max` and `min` give the same whatever the order in which
    batches are done; what `set` and `remove` do is done in the order of a stage's batches."""

    kind = "map"

    def add(self, key: Key, amount: Number = 1) -> None:
        """Adds to the number of this key, 0 at first."""
        self._do(["add", _key(key), _number(amount)])

    def max(self, key: Key, value: Number) -> None:
        """Keeps the greater number."""
        self._do(["max", _key(key), _number(value)])

    def min(self, key: Key, value: Number) -> None:
        """Keeps the smaller number."""
        self._do(["min", _key(key), _number(value)])

    def set(self, key: Key, value: Any) -> None:
        """Any value that JSON has."""
        self._do(["set", _key(key), _json(value)])

    def update(self, values: Mapping[Key, Any]) -> None:
        for key, value in values.items():
            self.set(key, value)

    def remove(self, key: Key) -> None:
        self._do(["remove", _key(key)])

    def compare_and_set(self, key: Key, expected: Any, value: Any) -> bool:
        """Sets the value of a key if it is `expected` (`None`: if there is none); whether it was.

        Done at once, for all workers to see, and not undone if the attempt fails: let the value tell whose it is, by
        `millpond.batch_id`, and a retry will find its own.
        """
        here = line()
        if here is None:
            self._read()
            if (self._local or {}).get(_key(key)) != expected:
                return False
            self._local = self._apply(self._local, ["set", _key(key), _json(value)])
            return True
        what = {"key": _key(key), "expected": _json(expected), "value": _json(value)}
        return bool(_answered(here.ask({"op": "compare_and_set", "name": self.name, **what})))

    def get(self, key: Key, default: Any = None) -> Any:
        return self.to_dict().get(_key(key), default)

    def __getitem__(self, key: Key) -> Any:
        return self.to_dict()[_key(key)]

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
        at = self._last.get(key) if self._updates else None
        last = None if at is None else self._updates[at]
        if last is not None and last[0] == what and what in _NUMERIC:
            last[2] = _NUMERIC[what](last[2], update[2])
            return
        if not self._updates:
            self._last = {}
        self._last[key] = len(self._updates)
        self._updates.append(list(update))

    _last: dict[Key, int]

    def _take(self) -> list[Update]:
        updates = super()._take()
        for update in updates:
            if update[0] in _NUMERIC:
                _number(update[2])  # What several have come to.
        return updates

    def _decode(self, value: Any) -> Any:
        return {key: item for key, item in value or []}

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
        self._do(["add", _key(item)])

    def update(self, items: Iterable[Key]) -> None:
        for item in items:
            self.add(item)

    def __contains__(self, item: Key) -> bool:
        return item in self.to_set()

    def __len__(self) -> int:
        return len(self.to_set())

    def to_set(self) -> set[Key]:
        return set(self._read() or ())

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._added: dict[Key, None] = {}

    def _fold(self, update: Update) -> None:
        self._added[update[1]] = None

    def _take(self) -> list[Update]:
        added, self._added = self._added, {}
        return [["add", item] for item in added]

    def _drop(self) -> None:
        self._added = {}

    def _pending(self) -> list[Update]:
        row = _row.get() or ()
        return [*(["add", item] for item in self._added), *(update for part, update in row if part is self)]

    def _apply(self, value: Any, update: Update) -> Any:
        return {*(value or ()), update[1]}


class Top(Part):
    """The items with the highest counts. Exact as long as there are at most 10,000 different ones; of more, a count may
    be too high by what one of 10,000 would have if all had the same."""

    kind = "top"

    def add(self, item: Key, amount: int = 1) -> None:
        if not isinstance(amount, int) or amount < 1:
            raise ValueError(f"an item is counted by whole numbers of 1 or more, and not {amount!r}")
        self._do(["add", _key(item), _number(amount)])

    def most_common(self, count: int = 10) -> list[tuple[Key, int]]:
        """The highest first; of equal ones, those that sort first."""
        counts: dict[Key, int] = self._read() or {}
        return sorted(counts.items(), key=lambda one: (-one[1], isinstance(one[0], str), one[0]))[:count]

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._added: dict[Key, int] = {}

    def _fold(self, update: Update) -> None:
        self._added[update[1]] = self._added.get(update[1], 0) + update[2]

    def _take(self) -> list[Update]:
        added, self._added = self._added, {}
        return [["add", item, _number(count)] for item, count in added.items()]

    def _drop(self) -> None:
        self._added = {}

    def _pending(self) -> list[Update]:
        row = _row.get() or ()
        added = (["add", item, count] for item, count in self._added.items())
        return [*added, *(update for part, update in row if part is self)]

    def _decode(self, value: Any) -> Any:
        return {key: count for key, count in value or []}

    def _apply(self, value: Any, update: Update) -> Any:
        value = dict(value or {})
        value[update[1]] = self._sum(value.get(update[1], 0), update[2])
        return value


class Quantiles(Part):
    """How numbers are distributed, each within 1 % of its value, in little memory."""

    kind = "quantiles"

    def add(self, value: Number) -> None:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{value!r} has no place among numbers")
        self._do(["add", number])

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

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._added: dict[str, int] = {}

    def _fold(self, update: Update) -> None:
        bucket = _bucket(update[1])
        self._added[bucket] = self._added.get(bucket, 0) + 1

    def _take(self) -> list[Update]:
        added, self._added = self._added, {}
        return [["add", bucket, count] for bucket, count in added.items()]

    def _drop(self) -> None:
        self._added = {}

    def _pending(self) -> list[Update]:
        row = _row.get() or ()
        added = (["add", bucket, count] for bucket, count in self._added.items())
        return [*added, *(["add", _bucket(update[1]), 1] for part, update in row if part is self)]

    def _decode(self, value: Any) -> Any:
        return {key: count for key, count in value or []}

    def _apply(self, value: Any, update: Update) -> Any:
        value = dict(value or {})
        bucket, count = update[1], update[2]
        value[bucket] = value.get(bucket, 0) + count
        return value


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


# Whether rows have been apart in this process.
_are_apart = False

# What a row has done.
Done = list[tuple[Part, Update]]


class Apart:
    """Keeps what a row does apart from what others do, so that it counts only if the row does."""

    def __init__(self) -> None:
        self._token: contextvars.Token[Done | None] | None = None

    def begin(self) -> None:
        """From here on it is another row."""
        global _are_apart
        _are_apart = True
        self._token = _row.set([])

    def end(self) -> Done:
        """What the row has done, for `count`."""
        done = _row.get() or []
        if self._token is not None:
            _row.reset(self._token)
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
    done = _row.get()
    if done is not None:
        done.clear()


def _answered(answer: dict[str, Any]) -> Any:
    if "wrong" in answer:
        raise MillpondError(answer["wrong"])
    return answer["value"]


def _key(key: Key) -> Key:
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise TypeError(f"a key is text or a whole number, and not {key!r}")
    if isinstance(key, int) and abs(key) > _INT_MAX:
        raise ValueError(f"{key} is too large for a key")
    return _text(key) if isinstance(key, str) else int(key)


def _number(number: Number) -> Number:
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        number = _of_numpy(number)
    is_in_range = math.isfinite(number) if isinstance(number, float) else abs(number) <= _INT_MAX
    if not is_in_range:
        raise ValueError(f"{number!r} cannot be counted with")
    return number


def _of_numpy(number: Any) -> Number:
    made = number.item() if hasattr(number, "item") else number
    if isinstance(made, bool) or not isinstance(made, (int, float)):
        raise TypeError(f"a number is wanted, and not {number!r}")
    return made


def _json(value: Any) -> Any:
    """A copy of `value`, as JSON has it."""
    import json

    try:
        copy = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        raise TypeError(f"a value is what JSON has, and not {value!r:.100}") from None
    _check_json(copy, _JSON_DEPTH)
    return copy


# How deep values may be.
_JSON_DEPTH = 100


def _check_json(value: Any, depth: int) -> None:
    """Refuses what other readers of JSON do not take."""
    if depth == 0:
        raise ValueError(f"a value may have {_JSON_DEPTH} levels, and this one has more")
    if isinstance(value, str):
        _text(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        _number(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            _text(key)
            _check_json(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check_json(item, depth - 1)


def _text(text: str) -> str:
    """`text`, if it can be told: not with half of a surrogate pair, as file names that are no text have it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{text!r} is no text that can be told: {error.reason}") from None
    return str(text)
