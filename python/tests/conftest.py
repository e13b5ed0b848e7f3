"""A small coordinator: drives real templates and workers over their sockets, as `docs/protocol.md` has it."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import fcntl
import itertools
import mmap
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from millpond import scatter
from millpond.frame import Channel, Flag, Frame, Kind


def unpacked() -> Path:
    """A folder with the package as the program unpacks it: with its library."""
    sources = Path(__file__).parent.parent
    folder = Path(tempfile.mkdtemp(prefix="millpond-package-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(sources / "millpond", folder / "millpond", ignore=shutil.ignore_patterns("__pycache__"))
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-pthread"]
    library = folder / "millpond" / "liballocator.so"
    subprocess.run([os.environ.get("CC", "cc"), *flags, sources / "allocator.c", "-o", library], check=True)
    return folder


PACKAGE = unpacked()
WAIT_SECONDS = 20
ENVIRONMENT = {
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": str(PACKAGE),
}


@dataclasses.dataclass
class Result:
    """What one attempt gave."""

    batches: dict[int, pa.RecordBatch] = dataclasses.field(default_factory=dict)
    origins: dict[int, list[int]] = dataclasses.field(default_factory=dict)
    segments: dict[int, int] = dataclasses.field(default_factory=dict)
    # Of scattered batches: in which segments of which side their buffers lie.
    places: dict[int, set[tuple[scatter.Holder, int]]] = dataclasses.field(default_factory=dict)
    rows: int = 0
    end: bool = False
    error: dict[str, Any] | None = None

    @property
    def batch(self) -> pa.RecordBatch:
        assert self.error is None, self.error
        return self.batches[0]

    def pylist(self) -> list[dict[str, Any]]:
        return self.batch.to_pylist()


class ChannelWithDeadline:
    """A channel on which waiting for ever is a failed test."""

    def __init__(self, connection: socket.socket) -> None:
        self.channel = Channel(connection)

    def send(self, frame: Frame) -> None:
        self.channel.send(frame)

    def receive(self) -> Frame | None:
        assert self.channel.wait(WAIT_SECONDS), "no frame came"
        try:
            return self.channel.receive()
        except ConnectionResetError:
            return None

    def expect(self, kind: Kind) -> Frame:
        frame = self.receive()
        assert frame is not None, f"the peer is gone; expected {kind!r}"
        assert frame.kind == kind, (frame, kind)
        return frame


class Template:
    def __init__(self, environment: dict[str, str] | None = None, **prepare: Any) -> None:
        ours, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "millpond.template", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, **ENVIRONMENT, **(environment or {})},
            stdin=subprocess.DEVNULL,
            cwd="/",  # Not where the package lies without its library.
        )
        theirs.close()
        self.channel = ChannelWithDeadline(ours)
        self.ids = itertools.count(1)
        self.exited: dict[int, dict[str, Any]] = {}
        self.channel.send(Frame(Kind.PREPARE, text={"preload": [], "path": [], "env": {}, **prepare}))
        self.answer = self.channel.receive()

    def fork(self, cwd: Path | None = None, env: dict[str, str] | None = None, shown: tuple[int, ...] = ()) -> Worker:
        ours, theirs = socket.socketpair()
        output, stdout = os.pipe()
        worker = next(self.ids)
        fds = (theirs.fileno(), stdout, stdout, *shown)
        text = {"env": env or {}, "cwd": str(cwd or PACKAGE)}
        self.channel.send(Frame(Kind.FORK, attempt=worker, text=text, fds=fds))
        theirs.close()
        os.close(stdout)
        frame = self.next_frame(Kind.FORKED)
        (pidfd,) = frame.fds
        return Worker(self, worker, frame.text["pid"], pidfd, ChannelWithDeadline(ours), output)

    def next_frame(self, kind: Kind) -> Frame:
        while True:
            frame = self.channel.receive()
            assert frame is not None, "the template is gone"
            if frame.kind == kind:
                return frame
            assert frame.kind == Kind.EXITED, frame
            self.exited[frame.attempt] = frame.text

    def exit_of(self, worker: int) -> dict[str, Any]:
        while worker not in self.exited:
            frame = self.channel.expect(Kind.EXITED)
            self.exited[frame.attempt] = frame.text
        return self.exited[worker]

    def close(self) -> None:
        self.channel.channel.close()
        self.process.wait(WAIT_SECONDS)


class Worker:
    """A worker and the coordinator's side of its protocol."""

    def __init__(
        self, template: Template, worker: int, pid: int, pidfd: int, channel: ChannelWithDeadline, output: int
    ) -> None:
        self.template, self.id, self.pid, self.pidfd = template, worker, pid, pidfd
        self.channel, self.output_fd = channel, output
        self.attempts = itertools.count(1)
        self.schema_ids: dict[pa.Schema, int] = {}
        self.schemas: dict[int, pa.Schema] = {}
        self.maps: dict[int, mmap.mmap] = {}
        self.inputs: dict[int, mmap.mmap] = {}
        self.ledger: mmap.mmap | None = None
        self.released: list[int] = []
        self.dropped: list[int] = []
        self.hello = channel.expect(Kind.HELLO)

    def send(self, kind: Kind, flags: int = 0, **fields: Any) -> None:
        self.channel.send(Frame(kind, flags, **fields))

    def open(self, function: str, stage: int = 1, **spec: Any) -> dict[str, Any]:
        """Opens `module:name`; the text of the answer."""
        self.send(Kind.OPEN, stage=stage, text=open_text(function, **spec))
        answer = self.channel.receive()
        while answer is not None and self.note(answer):
            answer = self.channel.receive()
        assert answer is not None, "the worker is gone"
        assert answer.kind in (Kind.OPENED, Kind.ERROR) and answer.stage == stage and answer.attempt == 0
        return answer.text

    def add_segment(self, segment: int, size: int) -> mmap.mmap:
        fd = os.memfd_create("test-input", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        self.inputs[segment] = mmap.mmap(fd, size)
        fcntl.fcntl(fd, 1033, 1 | 2 | 4 | 16)
        self.send(Kind.SEGMENT_IN, segment=segment, length=size, fds=(fd,))
        os.close(fd)
        return self.inputs[segment]

    def start(
        self,
        batch: pa.RecordBatch,
        stage: int = 1,
        sequence: int = 0,
        segment: int = 0,
        offset: int = 0,
        **fields: Any,
    ) -> int:
        attempt = next(self.attempts)
        schema = batch.schema
        if schema not in self.schema_ids:
            self.schema_ids[schema] = len(self.schema_ids) + 1
            self.send(Kind.SCHEMA_IN, schema=self.schema_ids[schema], data=schema.serialize().to_pybytes())
        message = batch.serialize().to_pybytes()
        place: dict[str, Any] = {"data": message}
        if segment:
            self.inputs[segment][offset : offset + len(message)] = message
            place = {"segment": segment, "offset": offset}
        self.send(
            Kind.RUN,
            stage=stage,
            attempt=attempt,
            sequence=sequence,
            rows=batch.num_rows,
            schema=self.schema_ids[schema],
            length=len(message),
            **place,
            **fields,
        )
        return attempt

    def start_scattered(self, batch: pa.RecordBatch, segments: list[int], stage: int = 1) -> int:
        """Puts each column into a segment of its own."""
        attempt = next(self.attempts)
        if batch.schema not in self.schema_ids:
            self.schema_ids[batch.schema] = len(self.schema_ids) + 1
            self.send(Kind.SCHEMA_IN, schema=self.schema_ids[batch.schema], data=batch.schema.serialize().to_pybytes())
        nodes, places = [], []
        for name, segment in zip(batch.schema.names, segments, strict=True):
            parts = scatter.take_apart(batch.select([name]))
            assert parts is not None
            nodes += parts.nodes
            offset = 0
            for buffer in parts.buffers:
                self.inputs[segment][offset : offset + buffer.size] = buffer.to_pybytes()
                places.append(scatter.Place(offset, buffer.size, segment, scatter.Holder.SENDER))
                offset += -(-buffer.size // 64) * 64
        data = scatter.describe(nodes, places)
        self.send(
            Kind.RUN,
            Flag.SCATTERED,
            stage=stage,
            attempt=attempt,
            rows=batch.num_rows,
            schema=self.schema_ids[batch.schema],
            length=len(data),
            data=data,
        )
        return attempt

    def run(self, batch: pa.RecordBatch, **where: Any) -> Result:
        return self.result(self.start(batch, **where))

    def pull(self, sequence: int, stage: int = 1) -> Result:
        attempt = next(self.attempts)
        self.send(Kind.PULL, stage=stage, attempt=attempt, sequence=sequence)
        return self.result(attempt)

    def result(self, attempt: int) -> Result:
        result = Result()
        while True:
            frame = self.channel.receive()
            assert frame is not None, f"the worker is gone: {self.output()}"
            if self.note(frame):
                continue
            assert frame.attempt == attempt, frame
            if frame.kind == Kind.BATCH:
                self.take_batch(frame, result)
            elif frame.kind == Kind.DONE:
                result.rows, result.end = frame.rows, bool(frame.flags & Flag.END)
                return result
            elif frame.kind == Kind.ERROR:
                result.error = frame.text
                return result

    def note(self, frame: Frame) -> bool:
        """Whether `frame` was about memory or schemas, which belong to no attempt."""
        if frame.kind == Kind.SCHEMA_OUT:
            self.schemas[frame.schema] = pa.ipc.read_schema(pa.py_buffer(frame.data))
        elif frame.kind == Kind.SEGMENT_OUT:
            (fd,) = frame.fds
            assert os.fstat(fd).st_size == frame.length
            self.maps[frame.segment] = mmap.mmap(fd, frame.length, prot=mmap.PROT_READ)
            frame.close_fds()
        elif frame.kind == Kind.LEDGER:
            (fd,) = frame.fds
            self.ledger = mmap.mmap(fd, frame.length, prot=mmap.PROT_READ)
            frame.close_fds()
        elif frame.kind == Kind.RELEASE_INPUT:
            self.released.append(frame.attempt)
        elif frame.kind == Kind.DROP:
            self.dropped.append(frame.segment)
        else:
            return False
        return True

    def take_batch(self, frame: Frame, result: Result) -> None:
        data = frame.data
        if frame.flags & Flag.ORIGIN:
            cut = len(data) - 4 * frame.rows
            result.origins[frame.port] = memoryview(data[cut:]).cast("I").tolist()
            data = data[:cut]
        if frame.segment:
            assert frame.offset % 64 == 0
            data = self.maps[frame.segment][frame.offset : frame.offset + frame.length]
            result.segments[frame.port] = frame.segment
        assert len(data) == frame.length
        if frame.flags & Flag.SCATTERED:
            batch = self.put_together(frame, data, result)
        else:
            batch = pa.ipc.read_record_batch(pa.py_buffer(data), self.schemas[frame.schema])
        batch.validate(full=True)
        assert batch.num_rows == frame.rows
        result.batches[frame.port] = batch

    def put_together(self, frame: Frame, data: bytes, result: Result) -> pa.RecordBatch:
        """The batch of a frame that says where its buffers lie."""
        nodes, places, inline_at = scatter.read_description(data)
        memory = {scatter.Holder.SENDER: self.maps, scatter.Holder.RECEIVER: self.inputs}
        buffers = []
        for place in places:
            holder = scatter.Holder(place.holder)
            whole = data[inline_at:] if holder == scatter.Holder.FRAME else memory[holder][place.segment]
            assert place.offset + place.length <= len(whole)
            buffers.append(pa.py_buffer(whole).slice(place.offset, place.length))
            if holder != scatter.Holder.FRAME:
                result.places.setdefault(frame.port, set()).add((holder, place.segment))
        return scatter.put_together(self.schemas[frame.schema], nodes, buffers)

    def wait_for_release(self, attempt: int) -> None:
        while attempt not in self.released:
            frame = self.channel.receive()
            assert frame is not None and self.note(frame), frame

    def stop(self) -> dict[str, Any]:
        self.send(Kind.STOP)
        return self.exit()

    def exit(self) -> dict[str, Any]:
        return self.template.exit_of(self.id)

    def output(self) -> str:
        """What the worker has printed, without the heads of pieces; waits for the end if it is dead."""
        parts = []
        while select.select([self.output_fd], [], [], 0 if self.alive() else WAIT_SECONDS)[0]:
            part = os.read(self.output_fd, 65536)
            if not part:
                break
            parts.append(part)
        return re.sub(rb"\x1f[-\d ]+\n", b"", b"".join(parts)).decode()

    def alive(self) -> bool:
        return not select.select([self.pidfd], [], [], 0)[0]

    def close(self) -> None:
        self.channel.channel.close()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.exit()
        os.close(self.pidfd)
        os.close(self.output_fd)


def open_text(function: str, **spec: Any) -> dict[str, Any]:
    module, _, name = function.partition(":")
    returns = spec.pop("returns", [])
    return {
        "name": "stage",
        "module": module,
        "function": name,
        "as": spec.pop("as_", None),
        "with": spec.pop("with_", {}),
        "ports": ["out"],
        "returns": returns if isinstance(returns, dict) else {"out": returns},
        "source": False,
        "has_state": False,
        "by_key": True,
        "seed": 7,
        "params": {},
        "batch_rows": 8192,
        "batch_bytes": 8 << 20,
        **spec,
    }


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of user code."""
    return tmp_path_factory.mktemp("modules")


@pytest.fixture(scope="session")
def template(modules: Path) -> Iterator[Template]:
    template = Template(preload=["pyarrow", "numpy", "pandas"], path=[str(modules)])
    assert template.answer is not None and template.answer.kind == Kind.HELLO, template.answer
    yield template
    template.close()
    assert template.process.returncode in (0, 1)


@pytest.fixture
def worker(template: Template) -> Iterator[Worker]:
    worker = template.fork()
    yield worker
    worker.close()


@pytest.fixture
def stage(worker: Worker, modules: Path) -> Any:
    """`stage(code, function, **spec)` writes `code` to a module, opens `function` of it and gives the worker."""

    def make(code: str, function: str = "f", **spec: Any) -> Worker:
        answer = worker.open(f"{write_module(modules, code)}:{function}", **spec)
        assert "type" not in answer, answer
        return worker

    return make


_modules = itertools.count(1)


def write_module(folder: Path, source: str) -> str:
    name = f"user_code_{next(_modules)}"
    (folder / f"{name}.py").write_text(textwrap.dedent(source))
    return name
