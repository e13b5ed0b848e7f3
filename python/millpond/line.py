"""The line to the coordinator that user code asks questions over, beside the frames that a worker is sent and answers.

Any thread may ask, and waits for its answer; whoever waits reads frames for all, so that an answer never lies unread.
Outside a run there is no line. Start reading at `Line.ask`.
"""

from __future__ import annotations

import collections
import itertools
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import MillpondError
from .frame import Channel, Frame, Kind

if TYPE_CHECKING:
    import asyncio

# What `GIVE_UP` asks for: to wait no more for the answer to another question.
GIVE_UP = "give_up"


class Question:
    """What was asked, until it is answered."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.answer: dict[str, Any] | None = None
        # What is to be said if it is given after all, when nobody waits for it any more.
        self.undo: Mapping[str, Any] | None = None
        # Of an asyncio task that waits for it.
        self.future: asyncio.Future[None] | None = None

    def take(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        if self.future is not None:
            self.future.get_loop().call_soon_threadsafe(_wake, self.future)


class Line:
    """One for the life of a worker. Frames that are no answers are left for its main thread."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._pid = os.getpid()
        self._numbers = itertools.count(1)
        self._state = threading.Condition()
        self._open: dict[int, Question] = {}
        self._others: collections.deque[Frame | None] = collections.deque()
        self._is_read = False  # By some thread, at this moment.
        self._pump: threading.Thread | None = None

    def ask(
        self, text: Mapping[str, Any], timeout: float | None = None, undo: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The answer to a question. After `timeout` seconds the coordinator is told that nobody waits for it any more,
        and answers with `given_up`, or with what it has given just before. `undo` is said if it gives something after
        an exception has ended the waiting, such as that of a signal handler."""
        question = self.send(text)
        until = None if timeout is None else time.monotonic() + timeout
        try:
            while question.answer is None:
                if until is not None and time.monotonic() >= until:
                    self.give_up(question)
                    until = None
                self._read_until(question, until)
        except BaseException:
            self._abandon(question, undo)
            raise
        return question.answer

    async def ask_async(
        self, text: Mapping[str, Any], timeout: float | None = None, undo: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The same for an asyncio task, while others go on."""
        import asyncio  # Only here, as it takes its time.

        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        question = self.send(text, future)
        self._start_pump()
        try:
            try:
                await asyncio.wait_for(asyncio.shield(future), timeout)
            except asyncio.TimeoutError:
                self.give_up(question)
                await asyncio.shield(future)
        except BaseException:  # It is cancelled.
            self._abandon(question, undo)
            raise
        assert question.answer is not None, "the future is set with it"
        return question.answer

    def tell(self, text: Mapping[str, Any]) -> None:
        """Says what needs no answer."""
        self._say(next(self._numbers), text)

    def send(self, text: Mapping[str, Any], future: asyncio.Future[None] | None = None) -> Question:
        question = Question(next(self._numbers))
        question.future = future
        with self._state:
            self._open[question.number] = question
        self._say(question.number, text)
        return question

    def _say(self, number: int, text: Mapping[str, Any]) -> None:
        if os.getpid() != self._pid:  # The answer might go to the worker, which has the same socket.
            raise MillpondError("locks, events and state are for the worker, and this is a process that it has forked")
        self._channel.send(Frame(Kind.ASK, sequence=number, text=dict(text)))

    def _abandon(self, question: Question, undo: Mapping[str, Any] | None) -> None:
        """Nobody waits for the answer any more. What it gives goes back, whether it is here or on its way."""
        with self._state:
            is_answered = question.answer is not None
            if not is_answered:
                question.undo = undo
        if not is_answered:
            self.give_up(question)
        elif undo is not None and "value" in (question.answer or {}):
            self.tell(undo)

    def give_up(self, question: Question) -> None:
        self.tell({"op": GIVE_UP, "request": question.number})

    def next_frame(self) -> Frame | None:
        """For the main thread: the next frame that is no answer, or `None` when the coordinator is gone."""
        while True:
            with self._state:
                while self._is_read and not self._others:
                    self._state.wait()
                if self._others:
                    return self._others.popleft()
                self._is_read = True
            self._read(None)

    def has_frame(self, timeout: float) -> bool:
        """Whether `next_frame` need not wait, or not long, after at most `timeout` seconds."""
        with self._state:
            if self._others:
                return True
            if self._is_read:
                self._state.wait(timeout)
                return bool(self._others)
        return self._channel.wait(timeout)

    def _read_until(self, question: Question, until: float | None) -> None:
        """Reads one frame, or waits for who reads, but no longer than `until`."""
        with self._state:
            if question.answer is not None:
                return
            if self._is_read:
                self._state.wait(None if until is None else max(0.0, until - time.monotonic()))
                return
            self._is_read = True
        self._read(until)

    def _read(self, until: float | None) -> None:
        """Reads a frame, if one comes in time, and hands it to whom it is for. `_is_read` is set for this thread."""
        frame: Frame | None = None
        has_read = False
        try:
            if until is None or self._channel.wait(max(0.0, until - time.monotonic())):
                frame = self._channel.receive()
                has_read = True
        finally:
            with self._state:
                self._is_read = False
                if has_read and frame is not None and frame.kind == Kind.ANSWER:
                    question = self._open.pop(frame.sequence, None)
                    if question is not None:
                        question.take(frame.text)
                        if question.undo is not None and "value" in frame.text:
                            self.tell(question.undo)
                elif has_read:
                    self._others.append(frame)
                self._state.notify_all()
        if has_read and frame is None:
            self._gone()

    def _gone(self) -> None:
        """Without its coordinator nothing that a worker does counts."""
        from .worker_process import end_orphaned

        end_orphaned()

    def _start_pump(self) -> None:
        """Has a thread read answers as long as asyncio tasks wait for any, while the main thread runs their loop."""
        if self._pump is None or not self._pump.is_alive():
            self._pump = threading.Thread(target=self._read_for_tasks, name="millpond-answers", daemon=True)
            self._pump.start()

    def _read_for_tasks(self) -> None:
        while True:
            with self._state:
                if not any(question.future is not None for question in self._open.values()):
                    self._pump = None
                    return
                if self._is_read:
                    self._state.wait()
                    continue
                self._is_read = True
            self._read(None)


def checked_name(name: str) -> str:
    """A name by which workers share something."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"a name is text that is not empty, and not {name!r}")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name!r} is no text that can be told: {error.reason}") from None
    return name


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_line: Line | None = None


def open_line(channel: Channel) -> Line:
    """For the worker only: from here on user code is in a run."""
    global _line
    _line = Line(channel)
    return _line


def line() -> Line | None:
    return _line
