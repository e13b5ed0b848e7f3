"""The event loop of a worker, for `async def` functions. One for all of its stages, so that they can share what a
module keeps for a loop, such as the connections of a client.

It runs in the main thread while something is awaited, and stands still in between. Imported where it is needed only,
as asyncio takes its time. Start reading at `Tasks.run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import os
from collections.abc import AsyncIterable, Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, TypeVar

from . import context, process, stacks
from .concurrency import Begun
from .parts import Call
from .run_state import Apart

T = TypeVar("T")

# Names of tasks: that of one row, and the one that begins them.
_ROW = "row "
_ROWS = "rows"

# What tasks that user code has left behind may take to end.
_TO_END = 2.0

_loop: asyncio.AbstractEventLoop | None = None


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs the loop until `coroutine` has ended."""
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
        stacks.sources.append(_stacks)
    return _loop.run_until_complete(coroutine)


def call(function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
    """What a function gives, `async def` or not. It is called in the loop, so that it finds a running one."""

    async def called() -> Any:
        return await complete(function(*arguments, **named))

    return run(called())


async def complete(made: Any) -> Any:
    """What a call has given: awaited, if that is to be done, and all of it, if it yields."""
    if inspect.isawaitable(made):
        made = await made
    return [item async for item in made] if isinstance(made, AsyncIterable) else made


def iterate(items: AsyncIterable[Any]) -> Iterator[Any]:
    """The items one by one, as they are asked for."""
    iterator = items.__aiter__()

    async def ask() -> Any:
        return await iterator.__anext__()

    try:
        while True:
            try:
                item = run(ask())
            except StopAsyncIteration:
                return
            yield item
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            call(close)


def close() -> None:
    """Cancels what is left in the loop, and closes it."""
    global _loop
    loop, _loop = _loop, None
    if loop is None:
        return
    stacks.sources.remove(_stacks)
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=_TO_END))
    with contextlib.suppress(asyncio.TimeoutError):
        loop.run_until_complete(asyncio.wait_for(loop.shutdown_asyncgens(), _TO_END))
    loop.close()


class Tasks:
    """Tasks of the loop, one for each row, in which `call` is awaited."""

    def __init__(self, at_once: int, call: Callable[[dict[str, Any]], Coroutine[Any, Any, Call]]) -> None:
        self.at_once = at_once
        self._call = call
        self._pid = os.getpid()

    def run(self, rows: Iterator[dict[str, Any]], until: float, leaves_out: Callable[[BaseException], bool]) -> Begun:
        begun = Begun(self.at_once, until, leaves_out)
        run(self._run(rows, begun))
        return begun

    def close(self) -> None:
        """There is nothing to close: the loop belongs to the worker."""

    async def _run(self, rows: Iterator[dict[str, Any]], begun: Begun) -> None:
        task = asyncio.current_task()
        assert task is not None, "run by one"
        task.set_name(_ROWS)
        # What has happened while the loop stood still comes first: connections that the other side has closed.
        await asyncio.sleep(0)
        running: dict[int, asyncio.Task[None]] = {}
        free = asyncio.Semaphore(self.at_once)

        def ended(index: int, _: asyncio.Task[None]) -> None:
            del running[index]
            free.release()

        for index, row in enumerate(rows):
            await free.acquire()
            if not begun.may_begin(index):
                free.release()
                break
            begun.rows = index + 1
            running[index] = asyncio.create_task(self._run_one(begun, running, index, row), name=f"{_ROW}{index}")
            running[index].add_done_callback(functools.partial(ended, index))
        for _ in range(self.at_once):
            await free.acquire()

    async def _run_one(
        self, begun: Begun, running: dict[int, asyncio.Task[None]], index: int, row: dict[str, Any]
    ) -> None:
        context.enter_own_row(index)
        apart = Apart()
        apart.begin()
        try:
            begun.calls[index] = await self._call(row)
        except BaseException as error:
            # A row that is cancelled by its own code has failed, like any other.
            begun.fail(index, error, is_exit=not isinstance(error, (Exception, asyncio.CancelledError)))
        begun.done[index] = apart.end()
        if os.getpid() != self._pid:
            process.end_copy()
        first = begun.first_error()
        for later, task in running.items() if first else ():
            if first and later > first[0]:
                task.cancel()


def _stacks() -> list[str]:
    """Where the tasks of the loop wait, those that were begun first in front."""
    if _loop is None:
        return []
    tasks = sorted(asyncio.all_tasks(_loop), key=lambda task: (len(task.get_name()), task.get_name()))
    kinds = [(task, "Row" if task.get_name().startswith(_ROW) else "Task") for task in tasks]
    return [stacks.text(kind, _stack(task.get_coro())) for task, kind in kinds if task.get_name() != _ROWS]


def _stack(awaited: Any) -> list[FrameType]:
    """The frames of a coroutine, from where it waits to where it began. asyncio tells the last one only."""
    frames: list[FrameType] = []
    while awaited is not None:
        frame, inner = _step(awaited)
        if frame is not None:
            frames.insert(0, frame)
        elif inner is None:
            # What has no frame of its own, as it steps through a coroutine or an async generator, refers to that.
            kinds = (inspect.iscoroutine, inspect.isgenerator, inspect.isasyncgen)
            inner = next((one for one in gc.get_referents(awaited) if any(kind(one) for kind in kinds)), None)
        awaited = inner
    return frames


def _step(awaited: Any) -> tuple[FrameType | None, Any]:
    """The frame of a coroutine or generator, and what it waits for."""
    for frame, inner in (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await")):
        if hasattr(awaited, frame):
            return getattr(awaited, frame), getattr(awaited, inner)
    return None, None
