"""What a worker shows that is stopped, as it takes too long: where its rows wait, then what all of its threads do.

Threads are shown whatever they do, without any code of Python. Rows that wait in an event loop are on the stack of no
thread, and one of many threads may be among those that are cut off: so rows are shown in front, where the main thread
can still run code.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from collections.abc import Callable, Iterable
from types import FrameType

from . import errors, process

# Where rows wait, as text: one each, without those that are in no code of the user.
sources: list[Callable[[], list[str]]] = []

# More rows, or deeper stacks, tell nothing new.
_MOST_ROWS = 50
_MOST_FRAMES = 50
_MOST_BYTES = 1 << 20


def show_in(fd: int) -> None:
    """Has this process show its stacks in a file in memory when it gets the signal for that."""
    signal.signal(process.SHOW_STACKS, lambda *_: _show_rows(fd))
    faulthandler.register(process.SHOW_STACKS, file=fd, all_threads=True, chain=True)


def text(what: str, frames: Iterable[FrameType]) -> str:
    """The user's frames, the most recent call first; empty if there are none."""
    lines = [
        f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}\n'
        for frame in frames
        if not errors.is_own(frame.f_code.co_filename)
    ]
    return f"{what} (most recent call first):\n{''.join(lines[:_MOST_FRAMES])}\n" if lines else ""


def _show_rows(fd: int) -> None:
    # Runs in the midst of whatever code: an error would be raised there.
    with contextlib.suppress(Exception):
        rows = [row for source in sources for row in source() if row]
        threads = os.pread(fd, _MOST_BYTES, 0) if rows else b""
        os.pwrite(fd, "".join(rows[:_MOST_ROWS]).encode("utf-8", "backslashreplace") + threads, 0)
