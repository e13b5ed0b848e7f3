"""The worker: reads a frame, does what it says, answers, until it is told to stop or the coordinator is gone.

User code runs in `Stage`; batches come from `Leases` and go to `Outputs`. The protocol is in `docs/protocol.md`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
import traceback
from typing import Any, NoReturn

import pyarrow as pa

from . import allocator, context, errors, printed, process, terminal
from .frame import PROTOCOL, Channel, Flag, Frame, Kind, ProtocolError
from .keyed import KeyedStage
from .leases import Leases
from .line import open_line
from .outputs import Outputs, Written
from .run_state import state
from .shared import Built, shared
from .stage import Output, Ran, Share, Stage, close_loop, find

# How long an idle worker with leases waits before it looks whether they are held by garbage, at first and at most.
_IDLE_SECONDS = 0.05
_IDLE_SECONDS_MAX = 2.0

EXIT_ORPHANED = 1
EXIT_BROKEN = 70

# In the place of a port: what an attempt has done to the state of the run.
_STATE_PORT = 0xFFFF_FFFF


def run(channel: Channel, is_in_foreground: bool = False) -> NoReturn:
    """The life of a worker process. Ends it without the interpreter's teardown, which may hang in user threads."""
    context.begin_logging(to_terminal=is_in_foreground)
    try:
        status = Worker(channel).serve()
    except SystemExit as error:  # User code asked for it: the coordinator sees the status.
        status = _exit_status(error)
    except (BrokenPipeError, ConnectionResetError):
        status = EXIT_ORPHANED
    except BaseException:
        traceback.print_exc()
        status = EXIT_BROKEN
    process.flush_stdio()
    os._exit(status)


AnyStage = Stage | KeyedStage | Built


class Worker:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._line = open_line(channel)
        self._pid = os.getpid()
        self._schemas: dict[int, pa.Schema] = {}
        self._stages: dict[int, AnyStage] = {}
        self._levels: dict[int, str] = {}  # Of what is told of each stage.
        # Of each stage: one of a pipeline that is a stage itself has others.
        self._params: dict[int, dict[str, Any]] = {}
        self._leases = Leases()
        self._allocator = allocator.load()
        self._outputs = Outputs(channel, self._leases, self._allocator)

    def serve(self) -> int:
        """Answers frames; returns the status to exit with."""
        self._channel.send(hello())
        while (frame := self._next_frame()) is not None:
            if frame.kind == Kind.OPEN:
                self._open(frame)
            elif frame.kind == Kind.SCHEMA_IN:
                self._schemas[frame.schema] = pa.ipc.read_schema(pa.py_buffer(frame.data))
            elif frame.kind == Kind.SEGMENT_IN:
                self._leases.add_segment(frame)
            elif frame.kind == Kind.SHARED_IN:
                shared.add(frame.text["name"], frame.fds[0], frame.length, is_object=frame.text["object"])
            elif frame.kind in (Kind.RUN, Kind.PULL, Kind.FINISH_KEYS, Kind.RESTORE):
                self._attempt(frame)
            elif frame.kind == Kind.RELEASE_OUTPUT:
                self._outputs.release(frame.segment)
            elif frame.kind == Kind.FORGET:
                self._leases.forget_segment(frame.segment)
            elif frame.kind == Kind.STOP:
                return self._close_stages()
            else:
                raise ProtocolError(f"a worker does not know frames of kind {frame.kind}")
        end_orphaned()

    def _next_frame(self) -> Frame | None:
        """Waits for a frame. Leases that end in the meantime (in user threads, in garbage) are released."""
        idle = _IDLE_SECONDS
        self._channel.send(*self._leases.release())
        while self._leases.outstanding() and not self._line.has_frame(idle):
            self._leases.collect()
            self._channel.send(*self._leases.release())
            idle = min(idle * 2, _IDLE_SECONDS_MAX)
        return self._line.next_frame()

    def _open(self, frame: Frame) -> None:
        self._params[frame.stage] = frame.text["params"]
        context.params.set(self._params[frame.stage])
        shared.expect(frame.text.get("shared", ()))
        context.worker.begin(1, 0)
        context.worker.stage = frame.stage
        self._levels[frame.stage] = frame.text.get("log_level", "info")
        context.enter_stage(frame.text["name"])
        context.set_log_level(self._levels[frame.stage])
        known = set(sys.modules)
        try:
            with self._keeping():
                stage = self._made(frame.text)
            self._watch_numpy()
        except SystemExit:
            raise
        except BaseException as error:
            terminal.examine(error)
            self._fail(Frame(Kind.ERROR, stage=frame.stage), error)
            return
        self._end_copies()
        state.begin()
        self._stages[frame.stage] = stage
        text = {"as": stage.convention, "class": stage.is_class}
        if stage.at_once > 1:
            text["at_once"] = stage.at_once
        if isinstance(stage, KeyedStage):
            text["snapshots"] = stage.has_snapshots
        if frame.text.get("tell_files"):
            text["files"] = _files_of(set(sys.modules) - known)
        self._channel.send(Frame(Kind.OPENED, stage=frame.stage, text=text))

    def _made(self, spec: dict[str, Any]) -> AnyStage:
        if spec["as"] in Built.conventions:
            return Built(spec, find)
        return KeyedStage(spec, self._keeping) if spec["has_state"] else Stage(spec)

    def _keeping(self) -> contextlib.AbstractContextManager[None]:
        """For code that is imported, and instances that are made: what they make meanwhile, they mean to keep."""
        return contextlib.nullcontext() if self._allocator is None else self._allocator.paused()

    def _watch_numpy(self) -> None:
        """Has numpy, once it is there, put arrays where they need not be copied from."""
        fd = None if self._allocator is None else self._allocator.watch_numpy()
        if fd is not None:
            frame = Frame(Kind.LEDGER, length=os.fstat(fd).st_size, fds=(fd,))
            self._channel.send(frame)
            frame.close_fds()

    def _attempt(self, frame: Frame) -> None:
        stage = self._stages.get(frame.stage)
        if stage is None:
            raise ProtocolError(f"attempt {frame.attempt} is for stage {frame.stage}, which is not open")
        context.set_log_level(self._levels[frame.stage])
        context.params.set(self._params[frame.stage])
        context.worker.stage, context.worker.is_busy = frame.stage, True
        try:
            answer = self._run(stage, frame)
        except SystemExit:
            raise
        except BaseException as error:
            terminal.examine(error)
            rows = stage.rows if isinstance(stage, KeyedStage) else None
            error_frame = Frame(Kind.ERROR, stage=frame.stage, attempt=frame.attempt)
            answer = [self._failure(error_frame, error, stage.row, rows)]
        process.flush_stdio()
        printed.end_lines()
        context.worker.is_busy = False
        self._leases.collect_old()
        self._channel.send(*answer, *self._leases.release())

    def _run(self, stage: AnyStage, frame: Frame) -> list[Frame]:
        """Runs an attempt; the frames that tell its outcome."""
        if frame.kind == Kind.RESTORE:
            if isinstance(stage, KeyedStage):
                stage.restore(frame.data)
            return []
        state.begin()
        context.worker.begin(frame.port or 1, _rows_given(frame))
        if frame.flags & Flag.HANG:
            threading.Event().wait()
        ran, end = self._call(stage, frame)
        self._end_copies()
        if frame.flags & Flag.AGAIN:
            return [Frame(Kind.DONE_AGAIN, stage=frame.stage, attempt=frame.attempt)]
        answer = []
        if frame.flags & Flag.SNAPSHOT and isinstance(stage, KeyedStage):
            answer.append(Frame(Kind.SNAPSHOT, stage=frame.stage, attempt=frame.attempt, data=stage.snapshot()))
        updates = state.take()
        if updates is not None:
            ran.outputs.append(Output(_STATE_PORT, updates))
        answer += self._written(frame, ran.outputs)
        if ran.failed:
            answer.append(Frame(Kind.ROWS_FAILED, stage=frame.stage, attempt=frame.attempt, text={"rows": ran.failed}))
        done = Frame(Kind.DONE, Flag.END if end else 0, stage=frame.stage, attempt=frame.attempt)
        done.rows, done.length = ran.rows, int(ran.seconds * 1e6)
        answer.append(done)
        return answer

    def _call(self, stage: AnyStage, frame: Frame) -> tuple[Ran, bool]:
        """What came of an attempt, and whether its outputs are the last ones of a source."""
        if isinstance(stage, Built):
            return Ran([Output(0, stage.pull(frame.sequence))], 0), True
        if isinstance(stage, KeyedStage):
            if frame.kind == Kind.FINISH_KEYS:
                return Ran(stage.finish(frame.sequence), 0), False
            batch = self._leases.read(frame, self._schemas[frame.schema])
            return stage.run(batch, frame.text, frame.sequence), False
        if frame.kind == Kind.PULL:
            outputs, end = stage.pull(frame.sequence, lambda: self._caught_up(frame))
            return Ran(outputs, 0), end
        batch = self._leases.read(frame, self._schemas[frame.schema])
        if frame.flags & Flag.JOIN:
            return stage.join(batch, frame.sequence), False
        return stage.run(batch, frame.sequence, _share(frame)), False

    def _caught_up(self, frame: Frame) -> None:
        self._end_copies()
        state.begin()  # What batches before have done counts already.
        self._channel.send(Frame(Kind.CAUGHT_UP, stage=frame.stage, attempt=frame.attempt))

    def _end_copies(self) -> None:
        """Ends this process if it is a copy of the worker."""
        if os.getpid() != self._pid:
            process.end_copy()

    def _written(self, frame: Frame, outputs: list[Output]) -> list[Frame]:
        """Writes all outputs of an attempt, or none, and empties the list; the frames that say where they are."""
        headers = [Frame(Kind.BATCH, stage=frame.stage, attempt=frame.attempt, port=output.port) for output in outputs]
        origins = [output.origin for output in outputs]
        written: list[Written] = []
        try:
            while len(written) < len(headers):
                written.append(self._outputs.write(outputs.pop(0).batch))
            self._outputs.settle(written)
        except BaseException:
            for batch in written:
                self._outputs.discard(batch)
            raise
        for header, batch, origin in zip(headers, written, origins, strict=True):
            if origin is not None:
                header.flags = Flag.ORIGIN
            self._outputs.fill(header, batch, b"" if origin is None else origin.tobytes())
        self._outputs.trim()
        return headers

    def _failure(
        self, answer: Frame, error: BaseException, row: int | None, rows: tuple[int, int] | None = None
    ) -> Frame:
        """`answer` with what is to be said of `error`, of which nothing is kept."""
        self._end_copies()
        answer.text = errors.report(error, row, rows)
        errors.forget_frames(error)
        return answer

    def _fail(self, answer: Frame, error: BaseException) -> None:
        process.flush_stdio()
        self._channel.send(self._failure(answer, error, None))

    def _close_stages(self) -> int:
        """Closes every stage, also when one of them fails, and says which did."""
        status = 0
        context.worker.begin(1, 0)
        for number, stage in self._stages.items():
            context.enter_stage(stage.name)
            context.params.set(self._params[number])
            context.worker.stage = number
            try:
                stage.close()
            except BaseException as error:
                self._fail(Frame(Kind.ERROR, stage=number), error)
                status = EXIT_BROKEN
        close_loop()
        return status


def end_orphaned() -> NoReturn:
    """Ends a worker without a coordinator: nothing that it does counts any more."""
    os._exit(EXIT_ORPHANED)


def _share(frame: Frame) -> Share | None:
    """What an attempt is to do of its batch; `None`: all of it."""
    if frame.text is None:
        return None
    ranges = [range(start, end) for start, end in frame.text["rows"]]
    numbers = ranges[0] if len(ranges) == 1 else list(itertools.chain(*ranges))
    return Share(numbers, bool(frame.flags & Flag.PART), frame.text["seconds"])


def _rows_given(frame: Frame) -> int:
    """How many rows an attempt is given. Those of a stage with state are some of the batch's."""
    if frame.text is not None and "partitions" in frame.text:
        return sum(count for _, count in frame.text["partitions"])
    return frame.rows


def hello() -> Frame:
    """What a process says first."""
    python = ".".join(map(str, sys.version_info[:3]))
    text = {"protocol": PROTOCOL, "pid": os.getpid(), "python": python, "pyarrow": pa.__version__}
    return Frame(Kind.HELLO, text=text)


def _exit_status(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def _files_of(modules: set[str]) -> list[str]:
    """The files of modules that do not belong to the interpreter or its packages."""
    installed = tuple(os.path.join(prefix, "") for prefix in {sys.prefix, sys.base_prefix, sys.exec_prefix})
    files = (getattr(sys.modules[name], "__file__", None) for name in modules)
    return sorted({file for file in files if isinstance(file, str) and not file.startswith(installed)})
