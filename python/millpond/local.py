"""What answers outside a run, where there is no coordinator: so that functions can be unit-tested as they are.

`Local` has the locks, semaphores, events and barriers of this process, and answers as the coordinator does
(`src/run/executor/sync.rs`), errors included. Start reading at `Local.ask`.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

# The kind and the name of a primitive.
Name = tuple[str, str]
Answer = dict[str, Any]


class _Wait:
    """A request, until it is answered."""

    def __init__(self, text: Mapping[str, Any]) -> None:
        self.task: int = text["task"]
        self.name: Name = (text["kind"], text["name"])
        self.parties: int = text.get("units", 0)
        self.gives_up: bool = text.get("gives_up", False)
        self.answer: Answer | None = None
        # Of an asyncio task that waits for it.
        self.wake: Callable[[], object] | None = None

    def take(self, answer: Answer) -> None:
        self.answer = answer
        if self.wake is not None:
            self.wake()


class _Units:
    def __init__(self, total: int) -> None:
        self.total = total
        self.holders: list[int] = []
        self.queue: collections.deque[_Wait] = collections.deque()


class Local:
    """Takes the place of `Line` for what `sync` asks."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.reset()

    def reset(self) -> None:
        """All is as at the beginning: nothing is held, nothing is set. Who still waits is told that it is over."""
        with self._changed:
            for wait in getattr(self, "_waits", ()):
                wait.take({"given_up": True})
            self._units: dict[Name, _Units] = {}
            self._set: set[Name] = set()
            self._waits: list[_Wait] = []
            self._changed.notify_all()

    def ask(
        self, text: Mapping[str, Any], timeout: float | None = None, undo: Mapping[str, Any] | None = None
    ) -> Answer:
        """The answer to a question, as `Line.ask` has it."""
        until = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            wait = self._begin(text)
            try:
                while wait.answer is None:
                    left = None if until is None else until - time.monotonic()
                    if left is not None and left <= 0:
                        self._give_up(wait)
                    else:
                        self._changed.wait(left)
            except BaseException:
                self._abandon(wait, undo)
                raise
        assert wait.answer is not None, "it was waited for"
        return wait.answer

    async def ask_async(
        self, text: Mapping[str, Any], timeout: float | None = None, undo: Mapping[str, Any] | None = None
    ) -> Answer:
        """The same for an asyncio task, while others go on."""
        import asyncio

        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._changed:
            wait = self._begin(text)
            wait.wake = lambda: loop.call_soon_threadsafe(_wake, future)
        try:
            if wait.answer is None:
                await asyncio.wait_for(future, timeout)
        except asyncio.TimeoutError:
            with self._changed:
                self._give_up(wait)
        except BaseException:  # It is cancelled.
            with self._changed:
                self._abandon(wait, undo)
            raise
        assert wait.answer is not None, "it was waited for"
        return wait.answer

    def tell(self, text: Mapping[str, Any]) -> None:
        """Says what needs no answer."""
        with self._changed:
            self._begin(text)

    def _begin(self, text: Mapping[str, Any]) -> _Wait:
        wait = _Wait(text)
        op, name = text["op"], wait.name
        if op == "acquire":
            self._acquire(wait, text["units"])
        elif op == "release":
            wait.take(
                {"value": 0} if self._give_back(wait.task, name) else {"wrong": f"{_shown(name)} is not held here"}
            )
        elif op == "wait" and name not in self._set:
            self._waits.append(wait)
        elif op == "meet":
            self._meet(wait)
        else:
            was_set = name in self._set
            if op == "set":
                self._set.add(name)
                self._let_go(name, lambda _: 1)
            elif op == "clear":
                self._set.discard(name)
            wait.take({"value": int(was_set) if op != "set" else int(not was_set)})
        if wait.answer is None and text.get("patient"):
            # In a run, that is the end of it.
            self._forget(wait)
            wait.take({"deadlock": f"nothing goes on: worker 0 waits for {_shown(name)}, and no other thread is here"})
        self._changed.notify_all()
        return wait

    def _acquire(self, wait: _Wait, total: int) -> None:
        units = self._units.setdefault(wait.name, _Units(total))
        if units.total != total:
            wrong = f"{_shown(wait.name)} has {units.total} units, as it was first asked for, and not {total}"
            wait.take({"wrong": wrong})
        elif not units.queue and len(units.holders) < total:
            units.holders.append(wait.task)
            wait.take({"value": 0})
        else:
            units.queue.append(wait)
            self._waits.append(wait)
            chain = self._deadlock(wait)
            if chain is not None:
                self._forget(wait)
                wait.take({"deadlock": chain})

    def _give_back(self, task: int, name: Name) -> bool:
        units = self._units.get(name)
        if units is None or task not in units.holders:
            return False
        units.holders.remove(task)
        while units.queue and len(units.holders) < units.total:
            following = units.queue.popleft()
            self._waits.remove(following)
            units.holders.append(following.task)
            following.take({"value": 0})
        if not units.holders:
            del self._units[name]
        return True

    def _meet(self, wait: _Wait) -> None:
        there = [other for other in self._waits if other.name == wait.name]
        if there and there[0].parties != wait.parties:
            wrong = f"{_shown(wait.name)} is for {there[0].parties}, as others wait for it, and not for {wait.parties}"
            wait.take({"wrong": wrong})
            return
        self._waits.append(wait)
        if len(there) + 1 >= wait.parties:
            self._let_go(wait.name, lambda place: place)

    def _let_go(self, name: Name, value: Callable[[int], int]) -> None:
        """Nobody needs to wait for this any more."""
        gone = [wait for wait in self._waits if wait.name == name]
        for place, wait in enumerate(gone):
            self._waits.remove(wait)
            wait.take({"value": value(place)})

    def _give_up(self, wait: _Wait) -> None:
        if wait.answer is None:
            self._forget(wait)
            wait.take({"given_up": True})

    def _abandon(self, wait: _Wait, undo: Mapping[str, Any] | None) -> None:
        """Nobody waits for the answer any more. What it gives goes back."""
        if wait.answer is None:
            self._give_up(wait)
        elif undo is not None and "value" in wait.answer:
            self._begin(undo)

    def _forget(self, wait: _Wait) -> None:
        self._waits.remove(wait)
        units = self._units.get(wait.name)
        if units is not None and wait in units.queue:
            units.queue.remove(wait)

    def _deadlock(self, closing: _Wait) -> str | None:
        """Why this task would wait for ever: each of those that could let it go on waits for others of them."""
        waits = {wait.task: wait.name for wait in self._waits}
        goes_on = {wait.task for wait in self._waits if wait.gives_up}
        while True:
            before = len(goes_on)
            goes_on.update(task for task, name in waits.items() if self._may_come(name, waits, goes_on))
            if closing.task in goes_on:
                return None
            if len(goes_on) == before:
                return self._chain(closing.task, waits)

    def _may_come(self, name: Name, waits: Mapping[int, Name], goes_on: set[int]) -> bool:
        units = self._units.get(name)
        if units is None:  # Anybody may set an event or come to a barrier.
            return True
        is_free = len(units.holders) < units.total
        return is_free or any(holder not in waits or holder in goes_on for holder in units.holders)

    def _chain(self, task: int, waits: Mapping[int, Name]) -> str:
        links: list[str] = []
        seen: set[int] = set()
        while task not in seen:
            seen.add(task)
            name = waits[task]
            holder = self._units[name].holders[0]
            whose = "which it holds itself" if holder == task else "which another task of it holds"
            links.append(f"worker 0 waits for {_shown(name)}, {whose}")
            task = holder
        return "; ".join(links)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _shown(name: Name) -> str:
    return f"{name[0]} `{name[1]}`"


local = Local()
