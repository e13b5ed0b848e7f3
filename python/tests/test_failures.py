"""Errors, deaths and what is left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import Template, write_module

from millpond.frame import Kind

ONE = pa.record_batch({"n": [1]})
THREE = pa.record_batch({"n": [1, 2, 3]})


def test_an_exception_shows_the_user_frames_only(stage: Any) -> None:
    worker = stage(
        """
        def helper(row):
            return 1 / (row["n"] - 2)

        def f(row):
            return {"n": helper(row)}
        """
    )
    error = worker.run(THREE).error
    assert (error["type"], error["message"], error["row"], error["verdict"]) == (
        "ZeroDivisionError",
        "division by zero",
        1,
        "exception",
    )
    assert error["traceback"].splitlines()[0] == "Traceback (most recent call last):"
    assert "in f\n" in error["traceback"] and "in helper\n" in error["traceback"]
    assert "millpond/" not in error["traceback"]
    assert worker.run(ONE).pylist() == [{"n": -1.0}]


def test_causes_are_shown_without_our_frames(stage: Any) -> None:
    worker = stage(
        """
        class Odd(Exception):
            pass

        def f(row):
            try:
                {}["missing"]
            except KeyError as error:
                raise Odd("no such key") from error
        """
    )
    error = worker.run(ONE).error
    assert error["type"].endswith(".Odd")
    assert "KeyError: 'missing'" in error["traceback"]
    assert "direct cause" in error["traceback"]
    assert "millpond/" not in error["traceback"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("raise KeyboardInterrupt()", "KeyboardInterrupt"),
        ("raise GeneratorExit()", "GeneratorExit"),
        ("raise BaseException('x')", "BaseException"),
        ("def g(): return g()\n    g()", "RecursionError"),
        ("raise Unpicklable(lambda: 0)", "Unpicklable"),
        ("raise NoText()", "NoText"),
        ("raise ValueError('\\ud800 \\x00')", "ValueError"),
        ("raise ExceptionGroup('many', [ValueError(1), TypeError(2)])", "ExceptionGroup"),
        ("input('name? ')", "NoTerminalError"),
        ("breakpoint()", "NoTerminalError"),
        ("raise MemoryError", "MemoryError"),
    ],
)
def test_every_exception_is_reported_and_survived(stage: Any, body: str, kind: str) -> None:
    worker = stage(
        f"""
class Unpicklable(Exception):
    def __reduce__(self):
        raise RuntimeError("never")

class NoText(Exception):
    def __str__(self):
        raise SystemExit(9)
    __repr__ = __str__

def f(row):
    {body}
"""
    )
    error = worker.run(ONE).error
    assert error["type"].rpartition(".")[2] == kind
    assert error["verdict"] == "exception" and error["row"] == 0
    assert error["traceback"]
    assert worker.run(ONE).error["type"] == error["type"]


def test_long_messages_and_tracebacks_are_cut_in_the_middle(stage: Any) -> None:
    error = stage("def f(row): raise ValueError('<' + 'ü' * 1_000_000 + '>')").run(ONE).error
    assert len(error["message"].encode()) <= 4 * 1024
    assert error["message"].startswith("<ü") and error["message"].endswith("ü>")
    assert "bytes left out" in error["message"]
    assert len(error["traceback"].encode()) <= 32 * 1024
    assert error["traceback"].startswith("Traceback") and error["traceback"].endswith("ü>\n")


def test_deep_recursion_is_reported(stage: Any) -> None:
    worker = stage(
        """
        import sys
        sys.setrecursionlimit(50_000)

        def even(n):
            return odd(n - 1)

        def odd(n):
            return even(n - 1) if n > 0 else 1 / 0

        def f(row):
            return even(20_000)
        """
    )
    error = worker.run(ONE).error
    assert error["type"] == "ZeroDivisionError"
    assert len(error["traceback"].encode()) <= 32 * 1024


def test_standard_input_is_empty(stage: Any) -> None:
    assert stage("import sys\ndef f(row): return {'text': sys.stdin.read()}").run(ONE).pylist() == [{"text": ""}]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def g(x): ...", "has no `f`"),
        ("f = 7", "cannot be called"),
        ("class f: pass", "needs a `__call__`"),
        ("1 / 0", "division by zero"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("def f(:", "invalid syntax"),
        ("class f:\n    def __init__(self): raise OSError('no model')\n    def __call__(self, x): ...", "no model"),
    ],
)
def test_a_stage_that_cannot_be_opened(worker: Any, modules: Path, source: str, message: str) -> None:
    error = worker.open(f"{write_module(modules, source)}:f")
    assert message in error["message"]
    assert "millpond/" not in error["traceback"] and "importlib" not in error["traceback"]
    assert worker.open(f"{write_module(modules, 'def f(x): ...')}:f") == {"as": "row", "class": False}


def test_an_unknown_type_word_and_convention(worker: Any, modules: Path) -> None:
    module = write_module(modules, "def f(x): ...")
    assert "`integer` is not a column type" in worker.open(f"{module}:f", returns=[["n", "integer"]])["message"]
    assert "`vaex` is not a convention" in worker.open(f"{module}:f", as_="vaex")["message"]


@pytest.mark.parametrize(
    ("body", "status", "number"),
    [
        ("os._exit(3)", 3, None),
        ("sys.exit(4)", 4, None),
        ("sys.exit()", 0, None),
        ("sys.exit('reason')", 1, None),
        ("os.kill(os.getpid(), signal.SIGKILL)", None, signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGTERM)", None, signal.SIGTERM),
        ("os.kill(os.getpid(), signal.SIGSEGV)", None, signal.SIGSEGV),
    ],
)
def test_a_death_is_told_exactly(stage: Any, body: str, status: int | None, number: int | None) -> None:
    worker = stage(f"import os, signal, sys\ndef f(row):\n    print('last words')\n    {body}")
    worker.start(ONE)
    assert worker.exit() == {"pid": worker.pid, "status": status, "signal": number}
    assert worker.output().startswith("last words\n")


def test_a_segfault_shows_where_it_was(stage: Any) -> None:
    worker = stage("import ctypes\ndef f(row): ctypes.string_at(0)")
    worker.start(ONE)
    assert worker.exit()["signal"] == signal.SIGSEGV
    assert "in f" in worker.output()


def test_interrupts_are_the_coordinators(stage: Any) -> None:
    worker = stage("import os, signal\ndef f(row):\n    os.kill(os.getpid(), signal.SIGINT)\n    return row")
    assert worker.run(ONE).pylist() == [{"n": 1}]


def test_children_die_before_the_exit_is_reported(stage: Any) -> None:
    worker = stage(
        """
        import os, subprocess

        def f(row):
            script = "sleep 100 & echo $!; sleep 100"
            child = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True)
            return {"child": child.pid, "grandchild": int(child.stdout.readline())}
        """
    )
    (pids,) = worker.run(ONE).pylist()
    os.kill(worker.pid, signal.SIGKILL)
    worker.exit()
    for pid in pids.values():
        assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("back", ['return {"n": -1}', "raise ValueError", "raise SystemExit"])
def test_a_copy_of_the_worker_that_comes_back_does_not_answer(stage: Any, back: str) -> None:
    """The copy comes back first, so that its answer would be taken for the worker's."""
    worker = stage(
        f"""
        import os

        def f(row):
            child = os.fork()
            if not child:
                {back}
            os.waitpid(child, 0)
            return row
        """
    )
    assert worker.run(THREE).pylist() == THREE.to_pylist()
    assert worker.run(ONE).pylist() == ONE.to_pylist()


def test_a_copy_of_the_worker_that_comes_back_from_an_import_does_not_answer(stage: Any) -> None:
    worker = stage(
        """
        import os

        if child := os.fork():
            os.waitpid(child, 0)

        def f(row):
            return row
        """
    )
    assert worker.run(ONE).pylist() == ONE.to_pylist()


def test_a_worker_ends_when_the_coordinator_is_gone(stage: Any) -> None:
    worker = stage("def f(row): return row")
    worker.channel.channel.close()
    assert worker.exit() == {"pid": worker.pid, "status": 1, "signal": None}


def test_teardown_cannot_hang(stage: Any) -> None:
    worker = stage(
        """
        import atexit, threading
        threading.Thread(target=threading.Event().wait).start()
        atexit.register(threading.Event().wait)
        def f(row): return row
        """
    )
    assert worker.stop()["status"] == 0


def test_a_failing_close_is_told(stage: Any) -> None:
    worker = stage("class f:\n    def __call__(self, row): ...\n    def close(self): raise OSError('not flushed')")
    worker.send(Kind.STOP)
    frame = worker.channel.receive()
    assert frame is not None and (frame.kind, frame.attempt, frame.text["message"]) == (Kind.ERROR, 0, "not flushed")
    assert worker.exit()["status"] == 70


def test_workers_die_with_their_template(modules: Path) -> None:
    template = Template(preload=["pyarrow"], path=[str(modules)])
    worker = template.fork()
    template.process.kill()
    template.process.wait()
    assert worker.channel.receive() is None
    os.close(worker.pidfd)
    os.close(worker.output_fd)


def test_a_template_shuts_down_after_its_workers() -> None:
    template = Template(preload=["pyarrow", "not_installed_at_all", "not_installed.either"])
    assert template.answer is not None and template.answer.kind == Kind.HELLO
    worker = template.fork()
    template.channel.send(template.answer.__class__(Kind.SHUTDOWN))
    assert worker.alive()
    assert worker.stop()["status"] == 0
    assert template.process.wait(20) == 0
    worker.channel.channel.close()


def test_a_preload_that_starts_threads_is_named(modules: Path) -> None:
    module = write_module(
        modules, "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    template = Template(preload=["json", module], path=[str(modules)])
    assert template.answer is not None and template.answer.kind == Kind.ERROR
    assert f"importing `{module}` starts threads" in template.answer.text["message"]
    template.channel.send(template.answer.__class__(Kind.FORK, attempt=5, text={}, fds=(0, 1, 2)))
    answer = template.channel.expect(Kind.ERROR)
    assert answer.attempt == 5 and "threads were started" in answer.text["message"]
    template.close()


def test_a_preload_that_fails_is_told(modules: Path) -> None:
    module = write_module(modules, "raise ValueError('broken install')")
    template = Template(preload=[module], path=[str(modules)])
    assert template.answer is not None and template.answer.kind == Kind.ERROR
    assert template.answer.text["message"] == "broken install"
    template.close()


def test_what_arrow_imports_is_imported_once_in_the_template(modules: Path) -> None:
    module = write_module(modules, "import sys\nseen = 'pandas' in sys.modules\ndef f(row): return {'seen': seen}")
    template = Template(preload=["pyarrow"], path=[str(modules)])
    worker = template.fork()
    worker.open(f"{module}:f")
    assert worker.run(ONE).pylist() == [{"seen": True}]
    worker.close()
    template.close()


def test_a_worker_has_nothing_of_the_template(stage: Any) -> None:
    worker = stage(
        """
        import os

        def is_open(fd):
            try:
                os.fstat(fd)
            except OSError:
                return False
            return True

        def f(row):
            with open("/proc/self/comm") as comm:
                name = comm.read().strip()
            more = [fd for fd in range(3, 256) if is_open(fd)]
            return {"fds": len(more), "leader": os.getsid(0) == os.getpid(), "name": name}
        """
    )
    assert worker.run(ONE).pylist() == [{"fds": 1, "leader": True, "name": f"millpond-{worker.id}"}]
