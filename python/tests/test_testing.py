"""Outside a run: unit tests of functions find the same rules as a run has, and can begin anew."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import millpond
import millpond.testing
from millpond import line as lines

counter = millpond.counter("rows")  # As functions have it in their modules.


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    millpond.testing.reset()
    yield
    millpond.testing.reset()


def elsewhere(call: Callable[[], Any]) -> Any:
    """What a call in another thread gives."""
    given: list[Any] = []
    thread = threading.Thread(target=lambda: given.append(call()))
    thread.start()
    thread.join()
    return given[0]


def in_thread(call: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def until_waiting(number: int) -> None:
    from millpond.local import local

    with local._changed:
        assert local._changed.wait_for(lambda: len(local._waits) == number, timeout=10)


@pytest.mark.parametrize("time", [1, 2])
def test_nothing_is_left_of_the_test_before(time: int) -> None:
    assert counter.value == 0 and not millpond.event("e").is_set() and not list(millpond.shared)
    assert millpond.state.map("m").to_dict() == {}
    counter.add()
    millpond.state.map("m").set("k", [time])
    millpond.event("e").set()
    millpond.shared.provide("table", time)
    assert millpond.lock("db").acquire(timeout=0)
    assert counter.value == 1 and millpond.shared["table"] == time


def test_in_a_run_there_is_no_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_line", object())
    with pytest.raises(millpond.MillpondError, match="this is a run"):
        millpond.testing.reset()
    monkeypatch.undo()


def test_what_one_task_asks_for_twice_is_a_deadlock() -> None:
    with millpond.lock("db"):
        assert not millpond.lock("db").acquire(timeout=0)
        assert not millpond.lock("db").acquire(timeout=0.01)
        with pytest.raises(millpond.DeadlockError, match="worker 0 waits for lock `db`, which it holds itself"):
            millpond.lock("db").acquire()
        with (
            pytest.raises(TimeoutError, match=r"lock `db` was not free within 0.01 s"),
            millpond.lock("db", timeout=0.01),
        ):
            pass
    assert millpond.lock("db").acquire()


def test_a_circle_of_waits_is_a_deadlock() -> None:
    def other() -> None:
        with millpond.lock("b"):
            has_b.set()
            with millpond.lock("a"):
                pass

    has_b = threading.Event()
    with millpond.lock("a"):
        thread = in_thread(other)
        has_b.wait()
        until_waiting(1)
        with pytest.raises(millpond.DeadlockError, match="lock `b`, which another task of it holds"):
            millpond.lock("b").acquire()
        assert not millpond.lock("b").acquire(timeout=0)
    thread.join()


def test_who_has_it_gives_it_back_and_in_the_order_of_asking_others_have_it() -> None:
    order: list[int] = []

    def take(number: int) -> None:
        with millpond.lock("db"):
            order.append(number)

    with pytest.raises(millpond.MillpondError, match="lock `db` is not held here"):
        millpond.lock("db").release()
    with millpond.lock("db"):
        assert elsewhere(lambda: millpond.lock("db").acquire(timeout=0)) is False
        threads = []
        for number in range(3):
            threads.append(in_thread(lambda number=number: take(number)))
            until_waiting(number + 1)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2]
    assert millpond.semaphore("s", 2).acquire()
    with pytest.raises(millpond.MillpondError, match="has 2 units, as it was first asked for, and not 3"):
        millpond.semaphore("s", 3).acquire()


def test_barriers_and_events() -> None:
    with pytest.raises(TimeoutError, match=r"fewer than 2 came to barrier `b` within 0.01 s"):
        millpond.barrier("b", 2).wait(timeout=0.01)
    places: list[int] = []
    thread = in_thread(lambda: places.append(millpond.barrier("b", 2).wait()))
    until_waiting(1)
    with pytest.raises(millpond.MillpondError, match="is for 2, as others wait for it, and not for 3"):
        millpond.barrier("b", 3).wait()
    places.append(millpond.barrier("b", 2).wait())
    thread.join()
    assert sorted(places) == [0, 1]
    thread = in_thread(millpond.event("e").wait)
    until_waiting(1)
    millpond.event("e").set()
    thread.join()
    assert millpond.event("e").wait(timeout=0)


def test_what_nobody_can_end_is_a_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "active_count", lambda: 1)  # Others here may be those of the tests.
    for wait in (millpond.event("e").wait, millpond.barrier("b", 2).wait):
        with pytest.raises(millpond.DeadlockError, match=r"nothing goes on: .* no other thread is here"):
            wait()


def test_tasks_of_a_loop_are_apart_and_can_be_cancelled() -> None:
    async def main() -> list[str]:
        said: list[str] = []

        async def hold() -> None:
            async with millpond.lock("db"):
                said.append("held")

        async with millpond.lock("db"):
            with pytest.raises(millpond.MillpondError, match="would block the event loop"):
                millpond.lock("other").acquire()
            assert not await millpond.lock("db").acquire_async(timeout=0.01)
            cancelled, other = asyncio.create_task(hold()), asyncio.create_task(hold())
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.wait([cancelled])
            said.append("given back")
        await other
        return said

    assert asyncio.run(main()) == ["given back", "held"]


def test_what_cannot_be_counted_is_refused() -> None:
    counter.add(1 << 62)
    assert counter.value == 1 << 62
    counter.add(1 << 62)
    with pytest.raises(millpond.MillpondError, match="counter `rows` of the state goes beyond 64 bits"):
        print(counter.value)
    seen = millpond.state.map("m")
    seen.set("k", "text")
    seen.add("k", 1)
    with pytest.raises(millpond.MillpondError, match="map `m` of the state has something at `k` that is no number"):
        seen.to_dict()
    seen.set("list", [1])
    seen["list"].append(2)
    assert seen["list"] == [1]
