"""Rows that wait side by side, in threads and as tasks of an event loop."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import WAIT_SECONDS, Template, Worker, open_text, write_module

from millpond import context, process, stacks
from millpond.errors import SchemaError, StageError
from millpond.keyed import KeyedStage
from millpond.stage import Ran, Share, Stage, close_loop

ROWS = 40
BATCH = pa.record_batch({"n": pa.array(range(ROWS), pa.int32())})

# `wait` returns when `together` rows are in it at once.
WAITING = """
import asyncio, threading, time

class Gate:
    def __init__(self, together):
        self.together, self.inside, self.peak = together, 0, 0
        self.lock, self.is_open = threading.Lock(), threading.Event()

    def enter(self):
        with self.lock:
            self.inside += 1
            self.peak = max(self.peak, self.inside)
            if self.inside == self.together:
                self.is_open.set()

    def leave(self):
        with self.lock:
            self.inside -= 1

    def wait(self):
        self.enter()
        assert self.is_open.wait(20)
        time.sleep(0.001)
        self.leave()

    async def wait_async(self):
        self.enter()
        while not self.is_open.is_set():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.001)
        self.leave()
"""
PLAIN = WAITING + "gate = Gate({n})\ndef f(row):\n    gate.wait()\n    return {body}\n"
ASYNC = WAITING + "gate = Gate({n})\nasync def f(row):\n    await gate.wait_async()\n    return {body}\n"
KINDS = {"threads": PLAIN, "tasks": ASYNC}
MANY = "[{'n': row['n'], 'i': i} for i in range(row['n'] % 3)] if row['n'] % 4 else None"


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def make(code: str, function: str = "f", **spec: Any) -> Stage:
        made.append(Stage(open_text(f"{write_module(tmp_path, code)}:{function}", **{"as_": "row", **spec})))
        return made[-1]

    yield make
    for one in made:
        one.close()
    close_loop()
    assert stacks.sources == []


def peak(stage: Stage) -> int:
    return int(stage._call.__globals__["gate"].peak)


def seen(ran: Ran) -> list[Any]:
    return [(output.port, output.batch.schema, output.batch.to_pylist(), output.origin) for output in ran.outputs]


@pytest.mark.parametrize("body", ["row", "{**row, 'x': 1}", MANY, "None", "iter([row, row])"])
@pytest.mark.parametrize("code", KINDS.values(), ids=KINDS.keys())
def test_as_many_rows_wait_as_may_and_come_out_as_if_one_after_the_other(stage: Any, code: str, body: str) -> None:
    made = stage(code.format(n=8, body=body), concurrency=8)
    one_by_one = stage(f"def f(row):\n    return {body}")
    assert made.at_once == 8 and one_by_one.at_once == 1
    for _ in range(2):
        ran = made.run(BATCH, 5)
        assert (seen(ran), ran.rows) == (seen(one_by_one.run(BATCH, 5)), ROWS)
    assert peak(made) == 8


@pytest.mark.parametrize("code", KINDS.values(), ids=KINDS.keys())
def test_parts_are_joined_as_one_batch(stage: Any, code: str) -> None:
    made = stage(code.format(n=2, body=MANY), concurrency=3)
    parts = [
        made.run(BATCH.slice(start, 20), 5, Share(range(start, start + 20), is_part=True)).outputs[0].batch
        for start in (0, 20)
    ]
    (given,) = pa.Table.from_batches(parts).combine_chunks().column(0).chunks
    schema = pa.schema([*BATCH.schema, pa.field("", given.type)])
    joined = made.join(pa.RecordBatch.from_arrays([*BATCH.columns, given], schema=schema), 5)
    assert seen(joined) == seen(stage(f"def f(row): return {MANY}").run(BATCH, 5))


@pytest.mark.parametrize("code", KINDS.values(), ids=KINDS.keys())
def test_time_that_is_over_leaves_rows_but_for_the_first_ones(stage: Any, code: str) -> None:
    ran = stage(code.format(n=8, body="row"), concurrency=8).run(BATCH, 0, Share(range(ROWS), seconds=0.0))
    assert ran.rows == 8 == len(ran.outputs[0].batch)


# Row 20 fails long before row 10 does; both are under way at once, and so are rows that would never end.
FAILS = """
import asyncio, threading
later = threading.Event()
ends, begun = [], []

def f(row):
    begun.append(row['n'])
    if row['n'] == 20:
        later.set()
        raise ValueError('20')
    if row['n'] == 10:
        assert later.wait(20)
        raise KeyError('10')
    return row

async def g(row):
    begun.append(row['n'])
    if row['n'] == 20:
        await asyncio.sleep(0)
        later.set()
        raise ValueError('20')
    if row['n'] == 10:
        while not later.is_set():
            await asyncio.sleep(0.001)
        raise KeyError('10')
    if row['n'] == 22:
        try:
            await asyncio.sleep(1000)
        finally:
            ends.append(row['n'])
    return row
"""


@pytest.mark.parametrize("function", ["f", "g"])
def test_the_first_row_by_place_is_to_blame(stage: Any, function: str) -> None:
    made = stage(FAILS, function, concurrency=25)
    with pytest.raises(KeyError, match="10"):
        made.run(BATCH, 0)
    assert made.row == 10
    seen = made._call.__globals__
    assert max(seen["begun"]) < ROWS - 1, "nothing more is begun"
    assert seen["ends"] == ([22] if function == "g" else []), "what waits is cancelled"


SKIPS = """
{begin} f(row):
    {wait}
    if row['n'] == 7:
        raise ValueError('no 7')
    if row['n'] == 9:
        return 5
    if row['n'] == 30:
        {cancelled}
    return row
"""


@pytest.mark.parametrize("is_async", [False, True])
def test_rows_that_raise_cost_the_others_nothing(stage: Any, is_async: bool) -> None:
    code = SKIPS.format(
        begin="import asyncio\nasync def" if is_async else "def",
        wait="await asyncio.sleep(0)" if is_async else "pass",
        cancelled="raise asyncio.CancelledError" if is_async else "raise OSError",
    )
    ran = stage(code, concurrency=6, skips=True).run(BATCH, 3)
    told = [(failed["row"], failed["type"], failed["verdict"]) for failed in ran.failed]
    last = "asyncio.exceptions.CancelledError" if is_async else "OSError"
    assert told == [
        (7, "ValueError", "exception"),
        (9, "millpond.SchemaError", "schema"),
        (30, last, "exception"),
    ]
    assert ran.failed[0]["traceback"].splitlines()[1].endswith("in f") and "millpond/" not in ran.failed[0]["traceback"]
    (output,) = ran.outputs
    left = [n for n in range(ROWS) if n not in (7, 9, 30)]
    assert output.batch["n"].to_pylist() == left == list(output.origin or ())
    assert ran.rows == ROWS


@pytest.mark.parametrize("begin", ["def", "async def"])
def test_an_exit_is_no_row_to_skip(stage: Any, begin: str) -> None:
    code = f"{begin} f(row):\n    if row['n'] == 3:\n        raise SystemExit(3)\n    return row"
    made = stage(code, concurrency=2, skips=True)
    with pytest.raises(SystemExit):
        made.run(BATCH, 0)


@pytest.mark.parametrize("code", KINDS.values(), ids=KINDS.keys())
def test_the_row_whose_value_does_not_fit_is_known(stage: Any, code: str) -> None:
    body = "{'n': 'text' if row['n'] == 33 else row['n']}"
    made = stage(code.format(n=4, body=body), concurrency=4, returns=[["n", "int64"]])
    with pytest.raises(SchemaError, match="column `n`"):
        made.run(BATCH, 0)
    assert made.row == 33


GENERATOR = """
import asyncio
async def f(row):
    for i in range(row['n'] % 3):
        await asyncio.sleep(0)
        yield {'n': row['n'], 'i': i}
"""


@pytest.mark.parametrize("concurrency", [None, 1, 7])
def test_an_async_generator_gives_many_rows(stage: Any, concurrency: int | None) -> None:
    made = stage(GENERATOR, concurrency=concurrency)
    assert made.at_once == (concurrency or 100)
    expected = stage("def f(row): return [{'n': row['n'], 'i': i} for i in range(row['n'] % 3)]").run(BATCH, 0)
    assert seen(made.run(BATCH, 0)) == seen(expected)


CLASS = """
import asyncio
log = []

class F:
    def __init__(self, step):
        self.loop, self.step = asyncio.get_running_loop(), step

    async def __call__(self, row):
        assert asyncio.get_running_loop() is self.loop
        await asyncio.sleep(0)
        return {'n': row['n'] + self.step}

    async def close(self):
        assert asyncio.get_running_loop() is self.loop
        log.append('closed')

def log_of():
    return log
"""


def test_an_async_class_is_made_used_and_closed_in_one_loop(stage: Any) -> None:
    made = stage(CLASS, "F", with_={"step": 5})
    assert made.run(BATCH, 0).outputs[0].batch["n"].to_pylist() == list(range(5, ROWS + 5))
    made.run(BATCH, 1)
    log = type(made._instance).__call__.__globals__["log"]
    made.close()
    assert log == ["closed"]


@pytest.mark.parametrize("begin", ["def", "async def"])
def test_an_argument_of_a_class_may_have_any_name(stage: Any, begin: str) -> None:
    code = (
        "class F:\n    def __init__(self, function, arguments):\n        self.step = function + arguments\n"
        f"    {begin} __call__(self, row):\n        return {{'n': row['n'] + self.step}}\n"
    )
    made = stage(code, "F", with_={"function": 2, "arguments": 3})
    assert made.run(BATCH, 0).outputs[0].batch["n"].to_pylist() == list(range(5, ROWS + 5))


@pytest.mark.parametrize(
    ("convention", "code"),
    [
        ("rows", "async def f(rows):\n    return await asyncio.gather(*[g(row) for row in rows])"),
        ("rows", "async def f(rows):\n    for row in rows:\n        yield await g(row)"),
        ("arrow", "async def f(batch):\n    await asyncio.sleep(0)\n    return batch"),
        ("pandas", "async def f(frame):\n    await asyncio.sleep(0)\n    return frame"),
    ],
)
def test_a_function_of_whole_batches_is_awaited(stage: Any, convention: str, code: str) -> None:
    code = f"import asyncio\nasync def g(row):\n    await asyncio.sleep(0)\n    return row\n{code}"
    made = stage(code, as_=convention)
    assert made.at_once == 1
    assert made.run(BATCH, 0).outputs[0].batch["n"].to_pylist() == list(range(ROWS))


def test_an_async_source_is_asked_for_one_batch_after_the_other(stage: Any) -> None:
    code = (
        "import asyncio\nleft = []\nasync def f():\n    try:\n        for n in range(100):\n"
        "            await asyncio.sleep(0)\n            yield {'n': n}\n    finally:\n        left.append(n)"
    )
    made = stage(code, source=True, batch_rows=10)
    for sequence in range(3):
        (output,), end = made.pull(sequence, lambda: None)
        assert not end and output.batch["n"].to_pylist() == list(range(sequence * 10, sequence * 10 + 10))
    made.close()
    assert made._call.__globals__["left"] == [29], "no further than asked for, and closed"
    rows, end = stage("async def f(): return [{'n': 1}]", source=True).pull(0, lambda: None)
    assert end and rows[0].batch.to_pylist() == [{"n": 1}]


def test_with_state_an_async_function_gets_one_row_after_the_other(tmp_path: Path, stage: Any) -> None:
    code = (
        "import asyncio\nclass F:\n    seen, inside = 0, 0\n    async def __call__(self, row):\n"
        "        self.inside += 1\n        await asyncio.sleep(0)\n        assert self.inside == 1\n"
        "        self.inside -= 1\n        self.seen += 1\n        return {'n': row['n'], 'seen': self.seen}\n"
        "    async def finish(self):\n        return {'n': None, 'seen': self.seen}"
    )
    keyed = KeyedStage(open_text(f"{write_module(tmp_path, code)}:F", as_="row", has_state=True))
    ran = keyed.run(BATCH, {"first": 0, "partitions": [[3, 10], [4, 30]]}, 0)
    assert keyed.at_once == 1
    assert ran.outputs[0].batch["seen"].to_pylist() == [*range(1, 11), *range(1, 31)]
    assert [row["seen"] for row in keyed.finish(1)[0].batch.to_pylist()] == [10, 30]


@pytest.mark.parametrize(
    ("code", "spec", "message"),
    [
        ("def f(rows: list): ...", {"concurrency": 5, "as_": None}, "whole batches (`as: rows`)"),
        ("async def f(batch): ...", {"concurrency": 5, "as_": "arrow"}, "whole batches (`as: arrow`)"),
        ("async def f(batches): ...", {"as_": "stream", "has_state": True}, "cannot be `as: stream`"),
    ],
)
def test_what_cannot_be(stage: Any, code: str, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(StageError) as raised:
        stage(code, **spec)
    assert message in str(raised.value)


def test_a_coroutine_of_a_plain_function_says_what_is_wrong(stage: Any) -> None:
    with pytest.raises(SchemaError, match="the function is no `async def`"):
        stage("async def g(row): return row\ndef f(row): return g(row)").run(BATCH, 0)


def test_fewer_threads_than_wanted_are_enough(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    start, left = threading.Thread.start, iter(range(3))

    def scarce(thread: threading.Thread) -> None:
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(thread)

    made = stage(PLAIN.format(n=3, body="row"), concurrency=8)
    monkeypatch.setattr(threading.Thread, "start", scarce)
    assert made.run(BATCH, 0).outputs[0].batch["n"].to_pylist() == list(range(ROWS))
    assert peak(made) == 3
    with pytest.raises(RuntimeError, match="can't start"):
        stage(PLAIN.format(n=3, body="row"), concurrency=8).run(BATCH, 0)


SHOWS = """
import contextvars
import millpond
from millpond import params
word = contextvars.ContextVar('word', default='nobody')
{begin} f(row):
    before = word.get()
    word.set(row['n'])
    return {{'id': millpond.batch_id, 'before': str(before)}}
"""


@pytest.mark.parametrize("begin", ["def", "async def"])
def test_the_batch_is_seen_and_rows_do_not_see_each_other(stage: Any, begin: str) -> None:
    made = stage(SHOWS.format(begin=begin), concurrency=4, name="clean")
    rows = made.run(BATCH, 41).outputs[0].batch.to_pylist()
    assert rows == [{"id": "clean/41", "before": "nobody"}] * ROWS
    context.enter_attempt(0, "none", 0)


WAITS_FOR_EVER = """
import asyncio, os, threading

async def deeper(row):
    loop = asyncio.get_running_loop()
    loop.call_soon(os.write, 1, b'.')
    await loop.create_future()

async def steps(row):
    yield await deeper(row)

class Request:
    def __await__(self):
        return deeper(None).__await__()

async def by_calls(row):
    if row['n'] == 3:
        await deeper(row)
    return row

async def by_steps(row):
    if row['n'] == 3:
        async for step in steps(row):
            yield step
    yield row

async def by_request(row):
    if row['n'] == 3:
        await Request()
    return row

async def by_gathering(row):
    if row['n'] == 3:
        await asyncio.gather(deeper(row), asyncio.sleep(0))
    return row

def in_thread(row):
    if row['n'] == 3:
        os.write(1, b'.')
        threading.Event().wait()
    return row

async def of_batches(batch):
    await deeper(batch)
"""


def sleeps(thread: Path) -> bool:
    """Threads that run may change what is being shown."""
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "S"


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        ("by_calls", "Row"),
        ("by_steps", "Row"),
        ("by_request", "Row"),
        ("by_gathering", "Row"),
        ("in_thread", "Row"),
        ("of_batches", "Task"),
    ],
)
def test_stacks_show_where_rows_wait(template: Template, modules: Path, function: str, kind: str) -> None:
    fd = os.memfd_create("stacks")
    worker = template.fork(shown=(fd,))
    module = write_module(modules, WAITS_FOR_EVER)
    as_ = "arrow" if function == "of_batches" else "row"
    worker.open(f"{module}:{function}", as_=as_, concurrency=None if as_ == "arrow" else ROWS)
    worker.start(BATCH)
    assert os.read(worker.output_fd, 1) == b"."
    deadline = time.monotonic() + WAIT_SECONDS
    while not all(map(sleeps, Path(f"/proc/{worker.pid}/task").iterdir())):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(worker.pid, process.SHOW_STACKS)
    while f"{kind} (most" not in (shown := os.pread(fd, 1 << 20, 0).decode()):
        assert time.monotonic() < deadline, shown
        time.sleep(0.001)
    row, _, threads = shown.partition("hread 0x")
    assert f" in {function}" in row and "millpond/" not in row
    assert function == "in_thread" or " in deeper" in row
    assert "Row (" not in threads and "most recent call first" in threads
    worker.close()
    os.close(fd)


def test_the_worker_tells_and_ends_with_tasks_that_are_left(stage: Any, worker: Worker, modules: Path) -> None:
    code = """
        import asyncio

        class F:
            def __init__(self):
                self.left = asyncio.create_task(self.work_for_ever())

            async def work_for_ever(self):
                try:
                    await asyncio.sleep(1000)
                finally:
                    print("cancelled")

            async def __call__(self, row):
                return row

            async def close(self):
                print("closed")
    """
    answer = worker.open(f"{write_module(modules, code)}:F", concurrency=5)
    assert answer == {"as": "row", "class": True, "at_once": 5}
    assert worker.run(BATCH).pylist() == BATCH.to_pylist()
    assert worker.stop()["status"] == 0
    assert worker.output() == "closed\ncancelled\n"


@pytest.mark.parametrize("begin", ["def", "async def"])
def test_a_copy_that_comes_back_ends(worker: Worker, modules: Path, begin: str) -> None:
    code = f"""
        import os

        {begin} f(row):
            if row["n"] == 3:
                pid = os.fork()
                if pid:
                    os.waitpid(pid, 0)
            return row
    """
    worker.open(f"{write_module(modules, code)}:f", concurrency=4)
    assert worker.run(BATCH).pylist() == BATCH.to_pylist()
    worker.stop()
    assert "came back from the code" in worker.output()
