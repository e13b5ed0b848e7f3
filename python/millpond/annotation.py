"""What a function says of itself: by the annotation of its first parameter, which convention it means, and whether what
it gives is to be awaited."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from typing import Any

DEFAULT = "row"

_TABLE = re.compile(r"(.+\.)?Table")
# The first that matches decides.
_CONVENTIONS = [
    (re.compile(r"(pl|polars)\.(.+\.)?DataFrame"), "polars"),
    (re.compile(r"(.+\.)?DataFrame"), "pandas"),
    (re.compile(r"(.+\.)?RecordBatch"), "arrow"),
    (_TABLE, "arrow"),
    (re.compile(r"(.+\.)?(Iterator|Iterable|Generator)(\[.*\])?"), "stream"),
    (re.compile(r"(.+\.)?(list|List|Sequence)(\[.*(dict|Dict|Mapping).*\])?"), "rows"),
    (re.compile(r"(.+\.)?(dict|Dict|Mapping)\[.*(ndarray|NDArray|MaskedArray).*\]"), "numpy"),
    (re.compile(r"(.+\.)?(dict|Dict|Mapping)(\[.*\])?"), "row"),
]


def infer(function: Callable[..., Any]) -> tuple[str, bool]:
    """The convention, and whether an `arrow` function asks for a `Table`."""
    text = _first_annotation(function)
    if text is None:
        return DEFAULT, False
    for pattern, convention in _CONVENTIONS:
        if pattern.fullmatch(text):
            return convention, pattern is _TABLE
    return DEFAULT, False


def is_async(function: Callable[..., Any]) -> bool:
    """Whether what a call gives is to be awaited: of an `async def` function, or an instance that has one to call."""
    kinds = (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    codes = (function, inspect.getattr_static(function, "__call__", None))
    return any(kind(code) for kind in kinds for code in codes)


def _first_annotation(function: Callable[..., Any]) -> str | None:
    """The annotation as text such as `pandas.DataFrame`, or as the user wrote it where it cannot be resolved."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Builtins need not have one.
        return None
    first = next(iter(signature.parameters.values()), None)
    if first is None or first.annotation is inspect.Parameter.empty:
        return None
    annotation = first.annotation
    if isinstance(annotation, str):
        annotation = _resolved(function, first.name, annotation)
    if isinstance(annotation, str):
        return annotation.strip("'\" ")
    if typing.get_origin(annotation) is not None:
        return str(annotation)
    if isinstance(annotation, type):
        return "dict" if issubclass(annotation, dict) else f"{annotation.__module__}.{annotation.__qualname__}"
    return str(annotation)


def _resolved(function: Callable[..., Any], name: str, annotation: str) -> Any:
    target = inspect.unwrap(function)
    if not inspect.isroutine(target):
        target = type(target).__call__
    try:
        return typing.get_type_hints(target).get(name, annotation)
    except Exception:  # The names in it may exist for type checkers only.
        return annotation
