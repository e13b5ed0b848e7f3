"""What keys, numbers and values of the state may be: what the coordinator, and whoever reads its summary, can take."""

from __future__ import annotations

import math
from typing import Any

Key = str | int
Number = int | float

INT_MAX = (1 << 63) - 1
# How deep values may be.
_JSON_DEPTH = 100


def checked_key(key: Key) -> Key:
    """Text or a whole number, in the plain types of Python."""
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise TypeError(f"a key is text or a whole number, and not {key!r}")
    if isinstance(key, int) and abs(key) > INT_MAX:
        raise ValueError(f"{key} is too large for a key")
    return _text(key) if isinstance(key, str) else int(key)


def checked_number(number: Number) -> Number:
    """A number that can be counted with."""
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        number = _of_numpy(number)
    is_in_range = math.isfinite(number) if isinstance(number, float) else abs(number) <= INT_MAX
    if not is_in_range:
        raise ValueError(f"{number!r} cannot be counted with")
    return number


def _of_numpy(number: Any) -> Number:
    made = number.item() if hasattr(number, "item") else number
    if isinstance(made, bool) or not isinstance(made, (int, float)):
        raise TypeError(f"a number is wanted, and not {number!r}")
    return made


def copy_of(value: Any) -> Any:
    """A copy of `value`, as JSON has it."""
    import json

    try:
        copy = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        raise TypeError(f"a value is what JSON has, and not {value!r:.100}") from None
    _check_json(copy, _JSON_DEPTH)
    return copy


def _check_json(value: Any, depth: int) -> None:
    """Refuses what other readers of JSON do not take."""
    if depth == 0:
        raise ValueError(f"a value may have {_JSON_DEPTH} levels, and this one has more")
    if isinstance(value, str):
        _text(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        checked_number(value)
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
