"""The terminal. A stage has none, and asking for one is an error with a name, not an end of file that looks like data;
but in a run in the foreground (`run --debug`), where it has that of the run."""

from __future__ import annotations

import builtins
import sys
from typing import Any, NoReturn

from .errors import NoTerminalError

_is_given = False


def give() -> None:
    """Makes the stream of standard input, which is the terminal, or what the user has put in its place."""
    global _is_given
    _is_given = True
    # A new one: that of the template has nothing to read.
    stream = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdin = sys.__stdin__ = stream  # type: ignore[misc]


def examine(error: BaseException) -> None:
    """Opens the debugger where `error` was raised, if there is somebody to talk to it who has not just left it."""
    if not _is_given or not sys.stdin.isatty():
        return
    import bdb
    import pdb
    import traceback

    if not isinstance(error, bdb.BdbQuit):
        traceback.print_exception(type(error), error, error.__traceback__)
        pdb.post_mortem(error.__traceback__)


def take_away() -> None:
    """Makes `input()` and `breakpoint()` raise. Standard input itself is empty."""
    builtins.input = _no_input
    sys.breakpointhook = _no_breakpoint


def _no_input(prompt: object = "") -> NoReturn:
    raise NoTerminalError(
        "a stage has no terminal, so `input()` has nobody to ask; use a param, or `millpond run --debug`"
    )


def _no_breakpoint(*_: Any, **__: Any) -> NoReturn:
    raise NoTerminalError(
        "a stage has no terminal, so `breakpoint()` cannot stop here; `millpond run --debug` gives it one"
    )
