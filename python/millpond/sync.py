"""Locks, semaphores, events and barriers that all workers of a run share, by name: `millpond.lock("db")`.

The coordinator has them. What a worker holds is free when the attempt ends in which it was taken, or the worker dies.
Outside a run `Local` has them, so that functions can be unit-tested as they are.
"""

from __future__ import annotations

import itertools
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

from .errors import PUBLIC, MillpondError
from .line import Line, checked_name, line
from .local import Local, local

if TYPE_CHECKING:
    import asyncio

# What asks: a thread or an asyncio task. Numbers are never used again in a process.
_numbers = itertools.count(1)
_threads = threading.local()
_tasks: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = weakref.WeakKeyDictionary()


class DeadlockError(MillpondError):
    """What was asked for would never come: those that could let go of it wait for what is held here."""

    __module__ = PUBLIC


class Acquired:
    """What `lock` and `semaphore` give: a context manager, also for `async with`."""

    def __init__(self, kind: str, name: str, units: int, timeout: float | None) -> None:
        self._kind, self._name, self._units, self._timeout = kind, name, units, timeout

    def acquire(self, timeout: float | None = None) -> bool:
        """Waits for it, but at most `timeout` seconds; whether it was given.

        Without `timeout`, raises `DeadlockError` if it would wait for ever.
        """
        _refuse_in_loop(f"{self._kind}(…)")
        return _was_given(
            _here().ask(self._ask_for(timeout, patient=_is_patient(timeout)), timeout, self._question("release"))
        )

    async def acquire_async(self, timeout: float | None = None) -> bool:
        """The same for an asyncio task, while others go on."""
        return _was_given(await _here().ask_async(self._ask_for(timeout), timeout, self._question("release")))

    def release(self) -> None:
        """Gives it back. An error if it is not held here."""
        _value(_here().ask(self._question("release")))

    def _let_go(self) -> None:
        """As `release`, but waits for nothing: an attempt that has ended holds nothing any more."""
        _here().tell(self._question("release"))

    def _ask_for(self, timeout: float | None, *, patient: bool = False) -> dict[str, Any]:
        return {**self._question("acquire"), "patient": patient, "gives_up": timeout is not None}

    def _question(self, op: str) -> dict[str, Any]:
        return {"op": op, "kind": self._kind, "name": self._name, "units": self._units, "task": _task()}

    def _late(self) -> TimeoutError:
        if self._timeout is None:
            return TimeoutError(f"{self._kind} `{self._name}` is not waited for any more: the attempt has ended")
        return TimeoutError(f"{self._kind} `{self._name}` was not free within {self._timeout} s")

    def __enter__(self) -> Acquired:
        if not self.acquire(self._timeout):
            raise self._late()
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()

    async def __aenter__(self) -> Acquired:
        if not await self.acquire_async(self._timeout):
            raise self._late()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._let_go()


class Event:
    """A flag of the run. It stays as it was set, also when the attempt that has set it fails."""

    def __init__(self, name: str) -> None:
        self._name = name

    def set(self) -> None:
        self._ask_at_once("set")

    def clear(self) -> None:
        self._ask_at_once("clear")

    def is_set(self) -> bool:
        return self._ask_at_once("is_set")

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it is set, but at most `timeout` seconds; whether it is."""
        _refuse_in_loop("event(…).wait")
        return _was_given(_here().ask(self._question("wait", patient=_is_patient(timeout)), timeout))

    async def wait_async(self, timeout: float | None = None) -> bool:
        """The same for an asyncio task, while others go on."""
        return _was_given(await _here().ask_async(self._question("wait"), timeout))

    def _ask_at_once(self, op: str) -> bool:
        return bool(_value(_here().ask(self._question(op))))

    def _question(self, op: str, *, patient: bool = False) -> dict[str, Any]:
        return {"op": op, "kind": "event", "name": self._name, "task": _task(), "patient": patient}


class Barrier:
    """Lets its parties go on once all of them wait. Then it can be used again."""

    def __init__(self, name: str, parties: int) -> None:
        self._name, self._parties = name, parties

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the others; how many came before. `TimeoutError` if they have not come within `timeout` seconds."""
        _refuse_in_loop("barrier(…).wait")
        return self._place(_here().ask(self._question(patient=_is_patient(timeout)), timeout), timeout)

    async def wait_async(self, timeout: float | None = None) -> int:
        """The same for an asyncio task, while others go on."""
        return self._place(await _here().ask_async(self._question(), timeout), timeout)

    def _question(self, *, patient: bool = False) -> dict[str, Any]:
        question = {"op": "meet", "kind": "barrier", "name": self._name, "units": self._parties, "task": _task()}
        return {**question, "patient": patient}

    def _place(self, answer: dict[str, Any], timeout: float | None) -> int:
        if not _was_given(answer):
            raise TimeoutError(f"fewer than {self._parties} came to barrier `{self._name}` within {timeout} s")
        return int(answer["value"])


def lock(name: str, *, timeout: float | None = None) -> Acquired:
    """The lock of this name: `with millpond.lock("db"): …`. One task of the run has it at a time, and those that wait
    for it get it in the order in which they came. After `timeout` seconds, `with` raises `TimeoutError`."""
    return Acquired("lock", checked_name(name), 1, timeout)


def semaphore(name: str, units: int, *, timeout: float | None = None) -> Acquired:
    """The semaphore of this name: as `lock`, but `units` tasks have it at a time."""
    return Acquired("semaphore", checked_name(name), _positive(units, "units"), timeout)


def event(name: str) -> Event:
    """The event of this name, which is not set at first."""
    return Event(checked_name(name))


def barrier(name: str, parties: int) -> Barrier:
    """The barrier of this name, for so many tasks. There must be as many workers, or `wait` ends the run."""
    return Barrier(checked_name(name), _positive(parties, "parties"))


def _here() -> Line | Local:
    """Who answers here."""
    return line() or local


def _positive(number: int, what: str) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 1 << 32:
        raise ValueError(f"`{what}` is a whole number of 1 or more, and not {number!r}")
    return number


def _was_given(answer: dict[str, Any]) -> bool:
    return not answer.get("given_up") and _value(answer) is not None


def _value(answer: dict[str, Any]) -> Any:
    if "deadlock" in answer:
        raise DeadlockError(answer["deadlock"])
    if "wrong" in answer:
        raise MillpondError(answer["wrong"])
    return answer["value"]


def _task() -> int:
    """What asks here."""
    task = _running_task()
    if task is not None:
        return _tasks.setdefault(task, next(_numbers))
    number: int | None = getattr(_threads, "number", None)
    if number is None:
        number = _threads.number = next(_numbers)
    return number


def _is_patient(timeout: float | None) -> bool:
    """Whether the whole attempt stands still until it is answered: there is nobody else here who may go on."""
    return timeout is None and threading.active_count() == 1


def _running_task() -> asyncio.Task[Any] | None:
    """The asyncio task that runs here. Nobody has one who has not imported asyncio."""
    module = sys.modules.get("asyncio")
    if module is None:
        return None
    try:
        task: asyncio.Task[Any] | None = module.current_task()
    except RuntimeError:  # There is no loop.
        return None
    return task


def _refuse_in_loop(call: str) -> None:
    """A task that waits like this would keep the others from going on, also the one that it waits for."""
    if _running_task() is None:
        return
    raise MillpondError(f"`millpond.{call}` would block the event loop here: write `async with`, or await `…_async`")
