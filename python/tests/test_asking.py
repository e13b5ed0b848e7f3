"""What user code asks of the run: primitives and state, with a coordinator that is played here."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pyarrow as pa
import pytest
from conftest import Result, Worker

import millpond
from millpond.frame import Frame, Kind

STATE = 0xFFFF_FFFF
ROWS = pa.record_batch({"n": [0, 1, 2, 3]})


def asked(worker: Worker) -> Frame:
    """The next question of the worker."""
    return worker.channel.expect(Kind.ASK)


def answer(worker: Worker, question: Frame, **text: Any) -> None:
    worker.send(Kind.ANSWER, sequence=question.sequence, text=text)


def updates(result: Result) -> list[tuple[str, str, Any]]:
    """What an attempt has done to the state."""
    assert result.error is None, result.error
    rows = result.batches.pop(STATE).to_pylist() if STATE in result.batches else []
    return [(row["kind"], row["name"], json.loads(row["update"])) for row in rows]


def test_a_lock_is_asked_for_and_given_back(stage: Any) -> None:
    worker = stage(
        """
        import millpond
        def f(row):
            with millpond.lock("db"):
                return row
        """
    )
    attempt = worker.start(ROWS.slice(0, 1))
    question = asked(worker)
    task = question.text["task"]
    text = {"op": "acquire", "kind": "lock", "name": "db", "units": 1, "task": task}
    assert question.text == {**text, "patient": True, "gives_up": False}
    answer(worker, question, value=0)
    assert asked(worker).text == {**text, "op": "release"}
    assert worker.result(attempt).pylist() == [{"n": 0}]


def test_frames_that_come_while_it_waits_are_not_lost(stage: Any) -> None:
    worker = stage(
        """
        import millpond
        def f(row):
            millpond.event("go").wait()
            return row
        """
    )
    first = worker.start(ROWS.slice(0, 1))
    question = asked(worker)
    worker.add_segment(7, 1 << 20)
    second = worker.start(ROWS.slice(1, 1), segment=7)
    answer(worker, question, value=1)
    assert worker.result(first).pylist() == [{"n": 0}]
    answer(worker, asked(worker), value=1)
    assert worker.result(second).pylist() == [{"n": 1}]


def test_who_waits_no_longer_says_so(stage: Any) -> None:
    worker = stage(
        """
        import millpond
        def f(row):
            with millpond.lock("db", timeout=0.05):
                return row
        """
    )
    attempt = worker.start(ROWS.slice(0, 1))
    question = asked(worker)
    assert not question.text["patient"] and question.text["gives_up"]
    given_up = asked(worker)
    assert given_up.text == {"op": "give_up", "request": question.sequence}
    answer(worker, question, given_up=True)
    error = worker.result(attempt).error
    assert error is not None
    assert (error["type"], error["message"]) == ("TimeoutError", "lock `db` was not free within 0.05 s")

    # What was given just then is had after all.
    attempt = worker.start(ROWS.slice(0, 1))
    question = asked(worker)
    asked(worker)
    answer(worker, question, value=0)
    assert asked(worker).text["op"] == "release"
    assert worker.result(attempt).pylist() == [{"n": 0}]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ({"deadlock": "round and round"}, "millpond.DeadlockError"),
        ({"wrong": "no"}, "millpond.MillpondError"),
    ],
)
def test_refusals_are_raised(stage: Any, text: dict[str, str], kind: str) -> None:
    worker = stage(
        """
        import millpond
        def f(row):
            millpond.semaphore("s", 2).acquire()
        """
    )
    attempt = worker.start(ROWS.slice(0, 1))
    question = asked(worker)
    assert (question.text["kind"], question.text["units"]) == ("semaphore", 2)
    answer(worker, question, **text)
    error = worker.result(attempt).error
    assert error is not None
    assert (error["type"], error["message"]) == (kind, *text.values())


def test_threads_wait_side_by_side(stage: Any) -> None:
    worker = stage(
        """
        import millpond
        def f(row):
            place = millpond.barrier("b", 3).wait()
            return {"place": place}
        """,
        concurrency=3,
    )
    attempt = worker.start(ROWS.slice(0, 3))
    questions = [asked(worker) for _ in range(3)]
    assert len({question.text["task"] for question in questions}) == 3
    for place, question in reversed(list(enumerate(questions))):
        answer(worker, question, value=place)
    assert sorted(row["place"] for row in worker.result(attempt).pylist()) == [0, 1, 2]


def test_asyncio_tasks_wait_while_others_go_on(stage: Any) -> None:
    worker = stage(
        """
        import asyncio, millpond
        async def f(row):
            if row["n"] == 0:
                async with millpond.lock("db"):
                    return {"n": "locked"}
            await asyncio.sleep(0.01)
            print("went on", flush=True)
            return {"n": str(row["n"])}
        """
    )
    attempt = worker.start(ROWS.slice(0, 2))
    question = asked(worker)
    while "went on" not in worker.output():
        time.sleep(0.01)
    answer(worker, question, value=0)
    assert asked(worker).text["op"] == "release"
    assert worker.result(attempt).pylist() == [{"n": "locked"}, {"n": "1"}]


def test_the_event_loop_is_not_blocked(stage: Any) -> None:
    worker = stage(
        """
        import millpond
        async def f(row):
            with millpond.lock("db"):
                return row
        """
    )
    error = worker.run(ROWS.slice(0, 1)).error
    assert error["message"].startswith("`millpond.lock(…)` would block the event loop here")


def test_updates_come_with_the_output_put_together(stage: Any) -> None:
    worker = stage(
        """
        import millpond
        rows = millpond.counter("rows")
        def f(row):
            rows.add()
            seen = millpond.state.map("seen")
            seen.add("all")
            seen.max("largest", row["n"])
            seen.set("last", row["n"])
            millpond.state.set("parity").add(row["n"] % 2)
            millpond.state.top("words").add("word", 2)
            return row
        """
    )
    result = worker.run(ROWS)
    assert updates(result) == [
        ("counter", "rows", ["add", 4]),
        ("map", "seen", ["add", "all", 4]),
        ("map", "seen", ["max", "largest", 3]),
        *(("map", "seen", ["set", "last", n]) for n in range(4)),
        ("set", "parity", ["add", 0]),
        ("set", "parity", ["add", 1]),
        ("top", "words", ["add", "word", 8]),
    ]
    assert result.pylist() == ROWS.to_pylist()


def test_what_a_failed_attempt_has_done_does_not_count(stage: Any) -> None:
    worker = stage(
        """
        import millpond
        def f(row):
            millpond.counter("rows").add()
            if row["n"] == 3:
                raise ValueError("3")
            return row
        """
    )
    assert worker.run(ROWS).error is not None
    assert updates(worker.run(ROWS.slice(0, 2))) == [("counter", "rows", ["add", 2])]


@pytest.mark.parametrize("spec", [{}, {"concurrency": 2}])
@pytest.mark.parametrize("text", [None, {"rows": [[0, 4]], "seconds": 60}])
def test_what_a_row_has_done_that_is_left_out_does_not_count(stage: Any, spec: Any, text: Any) -> None:
    worker = stage(
        """
        import millpond
        def f(row):
            millpond.counter("rows").add()
            millpond.state.set("rows").add(row["n"])
            if row["n"] in (1, 3):
                raise ValueError(row["n"])
            return row
        """,
        skips=True,
        **spec,
    )
    attempt = worker.start(ROWS, text=text)
    done = updates(worker.result(attempt))
    assert sorted(done, key=str) == [
        ("counter", "rows", ["add", 2]),
        ("set", "rows", ["add", 0]),
        ("set", "rows", ["add", 2]),
    ]


def test_rows_that_are_run_again_count_once(stage: Any) -> None:
    """A function that draws random numbers, but not for the first row, is called once more for all."""
    worker = stage(
        """
        import millpond, random
        def f(row):
            millpond.counter("rows").add()
            return {"n": random.random() if row["n"] > 5 else 0.0}
        """
    )
    result = worker.run(pa.record_batch({"n": list(range(20))}))
    assert updates(result) == [("counter", "rows", ["add", 20])]


def test_state_is_read_as_it_is_for_the_attempt(stage: Any) -> None:
    worker = stage(
        """
        import millpond
        def f(row):
            seen = millpond.state.map("seen")
            seen.add("a", 10)
            return {"seen": seen["a"], "mine": seen.compare_and_set("b", None, "me")}
        """
    )
    attempt = worker.start(ROWS.slice(0, 1))
    question = asked(worker)
    assert question.text == {"op": "read", "kind": "map", "name": "seen"}
    answer(worker, question, value=[["a", 5]])
    question = asked(worker)
    assert question.text == {"op": "compare_and_set", "name": "seen", "key": "b", "expected": None, "value": "me"}
    answer(worker, question, value=True)
    assert worker.result(attempt).pylist() == [{"seen": 15, "mine": True}]


def test_batches_of_a_source_have_their_own_updates(stage: Any) -> None:
    code = """
        import millpond
        def f():
            for n in range(5):
                millpond.counter("made").add()
                yield {"n": n}
        """
    worker = stage(code, source=True, batch_rows=2)
    # What was made before counts already: it is made again in a new process.
    assert updates(worker.pull(1)) == [("counter", "made", ["add", 2])]
    assert updates(worker.pull(2)) == [("counter", "made", ["add", 1])]


def test_outside_a_run_all_is_local() -> None:
    millpond.counter("here").add(2)
    millpond.counter("here").add()
    assert millpond.counter("here").value == 3
    numbers = millpond.state.quantiles("numbers")
    for number in range(1, 1001):
        numbers.add(number)
    assert numbers.count == 1000
    for part, expected in ((0, 1), (0.5, 500), (0.99, 990), (1, 1000)):
        assert numbers.quantile(part) == pytest.approx(expected, rel=0.011)
    seen = millpond.state.map("seen")
    seen.update({"a": [1], 2: "b"})
    seen.remove("a")
    assert (seen.to_dict(), len(seen), 2 in seen, seen.get("a")) == ({2: "b"}, 1, True, None)
    assert seen.compare_and_set("c", None, 1) and not seen.compare_and_set("c", None, 2)
    with millpond.lock("db"), millpond.semaphore("s", 2), millpond.semaphore("s", 2):
        assert not millpond.lock("db").acquire(timeout=0)
    assert not millpond.event("e").is_set()
    millpond.event("e").set()
    assert millpond.event("e").wait(timeout=0)


@pytest.mark.parametrize("amount", ["float('inf')", "1 << 63"])
def test_a_count_beyond_all_bounds_fails_the_attempt(stage: Any, amount: str) -> None:
    worker = stage(
        f"""
        import millpond
        def f(row):
            millpond.counter("rows").add({amount})
        """
    )
    error = worker.run(ROWS.slice(0, 1)).error
    assert error["message"] == f"counter `rows`: {eval(amount)!r} cannot be counted with"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: millpond.counter("n").add("1"),  # type: ignore[arg-type]
        lambda: millpond.counter(""),
        lambda: millpond.state.map("m").set("k", object()),
        lambda: millpond.state.map("m").add(1.5, 1),  # type: ignore[arg-type]
        lambda: millpond.state.set("s").add(None),  # type: ignore[arg-type]
        lambda: millpond.state.top("t").add("k", 0),
        lambda: millpond.semaphore("s", 0),
        lambda: millpond.barrier("b", True),
        lambda: millpond.lock(1),  # type: ignore[arg-type]
    ],
)
def test_what_makes_no_sense_is_an_error(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        wrong()


@pytest.mark.parametrize("spec", [{}, {"concurrency": 4}, {"skips": True}])
def test_a_row_that_is_throttled_ends_the_attempt_before_it(stage: Any, spec: Any) -> None:
    worker = stage(
        """
        import millpond
        def f(row):
            millpond.counter("rows").add()
            if row["n"] == 2:
                raise millpond.Throttled("slow down", retry_after=1.5)
            return row
        """,
        **spec,
    )
    text = {"rows": [[0, 4]], "seconds": 60}
    result = worker.result(worker.start(ROWS, text=text))
    assert (result.rows, updates(result)) == (2, [("counter", "rows", ["add", 2])])
    error = worker.result(worker.start(ROWS.slice(2), text={"rows": [[2, 4]], "seconds": 60})).error
    assert error is not None
    assert (error["throttled"], error["message"]) == ({"seconds": 1.5}, "slow down")
    # Without a time at which it may end, all of it is done again.
    assert worker.result(worker.start(ROWS)).error["throttled"] == {"seconds": 1.5}


def test_a_process_that_the_code_forks_cannot_ask(stage: Any) -> None:
    worker = stage(
        """
        import millpond, multiprocessing
        def ask(queue):
            try:
                millpond.lock("db").acquire()
            except millpond.MillpondError as error:
                queue.put(str(error))
        def f(row):
            queue = multiprocessing.SimpleQueue()
            process = multiprocessing.Process(target=ask, args=(queue,))
            process.start()
            said = queue.get()
            process.join()
            return {"said": said}
        """
    )
    said = worker.run(ROWS.slice(0, 1)).pylist()
    assert said == [{"said": "locks, events and state are for the worker, and this is a process that it has forked"}]


@pytest.mark.parametrize(
    "code",
    [
        """
        import asyncio, millpond
        async def f(row):
            task = asyncio.create_task(millpond.lock("db").acquire_async())
            await asyncio.sleep(0.05)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                return row
        """,
        """
        import millpond, signal
        def late(*_):
            raise InterruptedError
        def f(row):
            signal.signal(signal.SIGALRM, late)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            try:
                millpond.lock("db").acquire()
            except InterruptedError:
                return row
        """,
    ],
)
def test_a_lock_that_is_given_to_nobody_goes_back(stage: Any, code: str) -> None:
    """Of a task that is cancelled, and of a signal handler that raises."""
    worker = stage(code)
    attempt = worker.start(ROWS.slice(0, 1))
    question = asked(worker)
    assert asked(worker).text == {"op": "give_up", "request": question.sequence}
    # It was given just then.
    answer(worker, question, value=0)
    frames = [worker.channel.receive()]
    while (last := frames[-1]) is not None and last.kind != Kind.ASK:
        frames.append(worker.channel.receive())
    assert last is not None and last.text["op"] == "release"
    # What the function gives may have come before the release, in part or as a whole.
    while not any(frame is not None and (frame.kind, frame.attempt) == (Kind.DONE, attempt) for frame in frames):
        assert frames[-1] is not None, "the worker has gone"
        frames.append(worker.channel.receive())


def test_numbers_of_numpy_count_without_overflow(stage: Any) -> None:
    worker = stage(
        """
        import millpond, numpy
        def f(row):
            millpond.counter("n").add(numpy.uint8(200))
            return row
        """
    )
    assert updates(worker.run(ROWS)) == [("counter", "n", ["add", 800])]


@pytest.mark.parametrize(
    "update",
    [
        "millpond.state.map('m').set('k', 10**400)",
        "millpond.state.map('m').set('k', functools.reduce(lambda value, _: [value], range(200), 1))",
        "millpond.state.map('m').set('k', {'a': ['\\udcff']})",
        "millpond.state.map('\\udcff')",
        "millpond.state.set('s').add('\\udcff')",
        "millpond.lock('\\udcff')",
        "[millpond.state.map('m').add('k', 1e308) for _ in range(2)]",
    ],
)
def test_what_cannot_be_told_is_the_row_s_own_error(stage: Any, update: str) -> None:
    worker = stage(f"import functools, millpond\ndef f(row):\n    {update}\n    return row\n")
    error = worker.run(ROWS.slice(0, 1)).error
    assert error is not None and error["type"] == "ValueError", error


def test_threads_look_up_what_is_shared_once(stage: Any) -> None:
    worker = stage(
        """
        import millpond
        def f(row):
            return {"rows": millpond.shared["table"].num_rows, "same": id(millpond.shared["table"])}
        """,
        concurrency=4,
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, ROWS.schema) as writer:
        writer.write_batch(ROWS)
    content = sink.getvalue().to_pybytes()
    fd = os.memfd_create("test-shared")
    os.write(fd, content)
    worker.send(Kind.SHARED_IN, length=len(content), fds=(fd,), text={"name": "table", "object": False})
    os.close(fd)
    rows = worker.result(worker.start(ROWS)).pylist()
    assert {row["rows"] for row in rows} == {4} and len({row["same"] for row in rows}) == 1


@pytest.mark.parametrize("seconds", ["3", True, [1]])
def test_a_time_to_rest_is_a_number(seconds: Any) -> None:
    with pytest.raises(TypeError, match=r"`retry_after` is a number of seconds \(int or float\), and not"):
        millpond.Throttled("slow down", retry_after=seconds)
    assert millpond.Throttled(retry_after=2).retry_after == 2.0


def test_public_errors_are_called_by_where_they_are_found() -> None:
    for name in millpond.__all__:
        what = getattr(millpond, name)
        if isinstance(what, type) and issubclass(what, Exception):
            assert f"{what.__module__}.{what.__qualname__}" == f"millpond.{name}"


def test_what_looks_like_setting_says_what_to_write() -> None:
    with pytest.raises(AttributeError, match=r"millpond.counter\('n'\).add\(1\)"):
        millpond.counter("n").value += 1
    seen = millpond.state.map("looks")
    with pytest.raises(TypeError, match=r"`set\(key, value\)` .*, and `add\(key, n\)`"):
        seen["k"] = 1
    seen.add("k")
    with pytest.raises(TypeError, match=r"`add\(key, n\)`"):
        seen["k"] += 1
    with pytest.raises(TypeError, match=r"`remove\(key\)`"):
        del seen["k"]
