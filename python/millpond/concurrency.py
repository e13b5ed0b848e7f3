"""Rows of a batch that wait side by side: what has come of them, and the threads that they wait in.

For `async def` functions, `Tasks` in `event_loop.py` does what `Threads` does here. Either begins rows in their order,
at most so many at once, and is done when all that it has begun have ended. Start reading at `Threads.run`.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from . import context, process, stacks
from .errors import told
from .parts import Call
from .run_state import Apart, Done

# Rows that wait at once in a worker if an `async def` function says nothing: HTTP clients have as many connections.
DEFAULT = 100


class Begun:
    """The rows of an attempt that have been begun, and what has come of them, by their places."""

    def __init__(self, at_once: int, until: float, leaves_out: Callable[[BaseException], bool]) -> None:
        self.rows = 0
        self.calls: dict[int, Call] = {}
        # To the state of the run.
        self.done: dict[int, Done] = {}
        # Rows that are left out.
        self.failed: dict[int, dict[str, Any]] = {}
        self._at_once = at_once
        self._until = until
        self._leaves_out = leaves_out
        self._errors: dict[int, BaseException] = {}

    def may_begin(self, index: int) -> bool:
        """Whether one more row is to be begun. The first ones are, whatever the time."""
        is_late = index >= self._at_once and time.perf_counter() >= self._until
        return not is_late and not self._errors

    def fail(self, index: int, error: BaseException, *, is_exit: bool) -> None:
        """The function has raised for a row."""
        if not is_exit and self._leaves_out(error):
            self.failed[index] = told(error, index)
        else:
            self._errors[index] = error

    def first_error(self) -> tuple[int, BaseException] | None:
        """The first row that ends the attempt. All rows before it have been begun, as rows are begun in their order."""
        return min(self._errors.items(), default=None, key=lambda failed: failed[0])


class Crew(Protocol):
    """What calls a function for several rows at once."""

    at_once: int

    def run(self, rows: Iterator[dict[str, Any]], until: float, leaves_out: Callable[[BaseException], bool]) -> Begun:
        """Calls the function for rows until `until`, and returns when all that were begun have ended."""

    def close(self) -> None: ...


class Threads:
    """Threads of a stage, in which `call` is called. They are made when they are needed, and stay."""

    def __init__(self, at_once: int, call: Callable[[dict[str, Any]], Call]) -> None:
        self.at_once = at_once
        self._call = call
        self._pid = os.getpid()
        self._pool = concurrent.futures.ThreadPoolExecutor(at_once, "row")
        self._has_threads = False
        self._busy: dict[int, int] = {}  # Thread -> place of its row.
        stacks.sources.append(self._stacks)

    def run(self, rows: Iterator[dict[str, Any]], until: float, leaves_out: Callable[[BaseException], bool]) -> Begun:
        begun = Begun(self.at_once, until, leaves_out)
        free = threading.Semaphore(self.at_once)
        for index, row in enumerate(rows):
            free.acquire()
            if not begun.may_begin(index):
                free.release()
                break
            begun.rows = index + 1
            # With what is set for this thread: numpy has its allocator there.
            here = contextvars.copy_context()
            try:
                self._pool.submit(here.run, self._run_one, begun, free, index, row)
                self._has_threads = True
            except RuntimeError:
                # The system gives no more threads: the row waits for one of those that are there.
                if not self._has_threads:
                    raise
        for _ in range(self.at_once):
            free.acquire()
        return begun

    def close(self) -> None:
        stacks.sources.remove(self._stacks)
        self._pool.shutdown(wait=False)

    def _run_one(self, begun: Begun, free: threading.Semaphore, index: int, row: dict[str, Any]) -> None:
        thread = threading.get_ident()
        self._busy[thread] = index
        context.enter_own_row(index)
        apart = Apart()
        apart.begin()
        try:
            begun.calls[index] = self._call(row)
        except BaseException as error:
            begun.fail(index, error, is_exit=not isinstance(error, Exception))
        finally:
            begun.done[index] = apart.end()
            if os.getpid() != self._pid:
                process.end_copy()
            del self._busy[thread]
            free.release()

    def _stacks(self) -> list[str]:
        frames = sys._current_frames()
        busy = sorted(self._busy.copy().items(), key=lambda one: one[1])
        return [
            stacks.text("Row", (frame for frame, _ in traceback.walk_stack(frames[thread])))
            for thread, _ in busy
            if thread in frames
        ]
