"""The template: a process that has imported what workers need and forks them, which takes milliseconds.

It has one thread and runs no user code. Started as `python -m millpond.template FD`.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import sys
from typing import Any, NoReturn, TextIO

from millpond import process
from millpond.errors import StageError, report
from millpond.frame import Channel, Frame, Kind, ProtocolError
from millpond.worker_start import WorkerStart, enter, preload, preload_codecs


class Template:
    """Forks workers on request, reaps them, and says how they ended."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._workers: dict[int, int] = {}  # pid -> id of the worker
        self._dying: dict[int, dict[str, Any]] = {}  # pid -> the text of its EXITED, sent when its group is gone
        self._wakeup, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Returns after `SHUTDOWN`, once all workers are gone, or when the coordinator is."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        shutting_down = False
        while not (shutting_down and not self._workers):
            ready = {fd for fd, _ in ([] if self._channel.buffered_frame() else poll.poll())}
            if self._wakeup in ready:
                os.read(self._wakeup, 4096)
            self._reap()
            if self._channel.buffered_frame() or self._channel.fileno() in ready:
                frame = self._channel.receive()
                if frame is None:
                    return
                shutting_down |= frame.kind == Kind.SHUTDOWN
                self._handle(frame)

    def _handle(self, frame: Frame) -> None:
        if frame.kind == Kind.PREPARE:
            self._prepare(frame.text)
        elif frame.kind == Kind.FORK:
            self._fork(frame)
        elif frame.kind != Kind.SHUTDOWN:
            raise ProtocolError(f"a template does not know frames of kind {frame.kind}")

    def _prepare(self, text: dict[str, Any]) -> None:
        gc.disable()  # Imports leave little garbage, and looking for it takes a fifth of their time.
        try:
            enter(text)
            sys.path[:0] = text.get("path") or []
            for module in text.get("preload") or []:
                _preload(module)
            preload_codecs()
            message = importlib.import_module("millpond.worker_process").hello()
        except BaseException as error:
            message = Frame(Kind.ERROR, text=report(error))
        gc.freeze()  # What all workers share is never looked at again, so that its pages stay shared.
        gc.enable()
        self._channel.send(message)

    def _fork(self, frame: Frame) -> None:
        is_fresh = (frame.text or {}).get("preload") is not None
        threads = [] if is_fresh else process.extra_threads()
        if threads:
            error = StageError(f"cannot fork: threads were started in the template: {', '.join(threads)}")
            frame.close_fds()
            self._channel.send(Frame(Kind.ERROR, attempt=frame.attempt, text=report(error)))
            return
        process.flush_stdio()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become_worker(frame, parent)
        frame.close_fds()
        self._workers[pid] = frame.attempt
        pidfd = os.pidfd_open(pid)
        self._channel.send(Frame(Kind.FORKED, attempt=frame.attempt, text={"pid": pid}, fds=(pidfd,)))
        os.close(pidfd)

    def _reap(self) -> None:
        """Kills what dead workers leave behind and reports a worker once its whole process group is gone."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if ended is None:
                break
            if ended.si_pid in self._workers and ended.si_pid not in self._dying:
                self._dying[ended.si_pid] = _exit_text(ended)
                _kill_group(ended.si_pid)
            os.waitid(os.P_PID, ended.si_pid, os.WEXITED)
        for pid in [pid for pid in self._dying if _group_is_gone(pid)]:
            worker = self._workers.pop(pid)
            self._channel.send(Frame(Kind.EXITED, attempt=worker, text=self._dying.pop(pid)))


def _preload(module: str) -> None:
    """Imports `module` if it is installed. A fork would lose threads that it starts, with the locks that they hold."""
    before = process.extra_threads()
    preload(module)
    started = process.extra_threads()[len(before) :]
    if started:
        raise StageError(
            f"importing `{module}` starts threads ({', '.join(started)}), which workers forked from here would lose; "
            f"OPENBLAS_NUM_THREADS=1 and OMP_NUM_THREADS=1 prevent this for most libraries"
        )


def _become_worker(frame: Frame, template: int) -> NoReturn:
    """The forked child: a session of its own, its own socket and output, nothing else of the template's."""

    def run() -> None:
        os.setsid()
        process.die_with_parent(template)
        process.reset_signals()
        connection, *others = frame.fds
        has_terminal = (frame.text or {}).get("terminal")
        stdin = others.pop(0) if has_terminal else os.open(os.devnull, os.O_RDONLY)
        stdout, stderr, *shown = others
        _set_stdio(stdin, stdout, stderr)
        process.close_fds_except({0, 1, 2, connection, *shown})
        start = WorkerStart(frame.attempt, connection, shown, frame.text or {})
        start.confine()
        if start.text.get("preload") is not None:
            start.execute()
        start.run()

    process.end_with(run)


def _set_stdio(stdin: int, stdout: int, stderr: int) -> None:
    for source, target in ((stdin, 0), (stdout, 1), (stderr, 2)):
        os.dup2(source, target, inheritable=True)
    # New streams: those of the template may have been made for files, which can seek.
    sys.stdout = sys.__stdout__ = _text_stream(1)  # type: ignore[assignment, misc]
    sys.stderr = sys.__stderr__ = _text_stream(2)  # type: ignore[assignment, misc]


def _text_stream(fd: int) -> TextIO:
    """Lines appear when they are written, and no text is an error."""
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _exit_text(ended: os.waitid_result) -> dict[str, Any]:
    exited = ended.si_code == os.CLD_EXITED
    status, number = (ended.si_status, None) if exited else (None, ended.si_status)
    return {"pid": ended.si_pid, "status": status, "signal": number}


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # Nobody is left, or only what became another user.
        return


def _group_is_gone(group: int) -> bool:
    """Whether no member is left. Orphans become children of this process, the subreaper, so it can tell."""
    try:
        os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def main() -> NoReturn:
    process.forget_folder()
    connection = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(connection.fileno(), False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process.set_name("millpond-tmpl")
    process.become_subreaper()
    status = 0
    try:
        Template(Channel(connection)).serve()
    except (BrokenPipeError, ConnectionResetError):
        status = 1
    process.flush_stdio()
    os._exit(status)


if __name__ == "__main__":
    main()
