"""A stage has no terminal: asking for one is an error with a name, not an end of file that looks like data."""

from __future__ import annotations

import builtins
import sys
from typing import Any, NoReturn

from .errors import NoTerminalError


def take_away() -> None:
    """Makes `input()` and `breakpoint()` raise. Standard input itself is empty."""
    builtins.input = _no_input
    sys.breakpointhook = _no_breakpoint


def _no_input(prompt: object = "") -> NoReturn:
    raise NoTerminalError("a stage has no terminal, so `input()` has nobody to ask; use a param of the pipeline")


def _no_breakpoint(*_: Any, **__: Any) -> NoReturn:
    raise NoTerminalError("a stage has no terminal, so `breakpoint()` cannot stop here; call the function from a test")
