"""Frames and the socket that carries them. The layout is in `docs/protocol.md`.

Knows nothing of stages or batches. Start reading at `Channel`.
"""

from __future__ import annotations

import array
import collections
import dataclasses
import enum
import json
import os
import select
import socket
import struct
import threading
from typing import Any

PROTOCOL = 1
INLINE_LIMIT = 32 * 1024

_HEADER = struct.Struct("<BBHIIIQQIIQQII")
_MAX_FDS = 253
_READ_SIZE = 64 * 1024
_ANCILLARY_SIZE = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)


class Kind(enum.IntEnum):
    """What a frame says."""

    OPEN = 1
    SCHEMA_IN = 2
    SEGMENT_IN = 3
    RUN = 4
    PULL = 5
    RELEASE_OUTPUT = 6
    FORGET = 7
    STOP = 8
    FINISH_KEYS = 9
    RESTORE = 10
    ANSWER = 11
    SHARED_IN = 12

    HELLO = 16
    OPENED = 17
    SCHEMA_OUT = 18
    SEGMENT_OUT = 19
    BATCH = 20
    DONE = 21
    ERROR = 22
    RELEASE_INPUT = 23
    DROP = 24
    CAUGHT_UP = 25
    LEDGER = 26
    DONE_AGAIN = 27
    SNAPSHOT = 28
    ROWS_FAILED = 29
    ASK = 30

    PREPARE = 32
    FORK = 33
    FORKED = 34
    EXITED = 35
    SHUTDOWN = 36


class Flag:
    """Bits of `Frame.flags`. Plain numbers: those of `enum` take microseconds to compare, several times a batch."""

    ORIGIN = 1
    END = 2
    PART = 4
    JOIN = 8
    SCATTERED = 16
    AGAIN = 32
    SNAPSHOT = 64
    HANG = 128


class ProtocolError(Exception):
    """The peer sent something that the protocol does not allow."""


@dataclasses.dataclass(slots=True)
class Frame:
    """One message. `fds` are owned by whoever holds the frame."""

    kind: int
    flags: int = 0
    stage: int = 0
    attempt: int = 0
    sequence: int = 0
    schema: int = 0
    segment: int = 0
    offset: int = 0
    length: int = 0
    rows: int = 0
    port: int = 0
    text: Any = None
    data: bytes = b""
    fds: tuple[int, ...] = ()

    def encode(self) -> bytes:
        """The header, the JSON and the data; the descriptors travel beside them."""
        text = b"" if self.text is None else json.dumps(self.text).encode("ascii")
        header = _HEADER.pack(
            self.kind,
            len(self.fds),
            self.flags,
            len(text),
            len(self.data),
            self.stage,
            self.attempt,
            self.sequence,
            self.schema,
            self.segment,
            self.offset,
            self.length,
            self.rows,
            self.port,
        )
        return header + text + self.data if text or self.data else header

    def close_fds(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = ()


class Channel:
    """Sends and receives frames over a blocking `SOCK_STREAM` Unix socket. Any thread may send, one at a time reads."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        self._socket = connection
        self._buffer = bytearray()
        self._sending = threading.Lock()  # Frames of several threads must not be mixed up.
        self._fds: collections.deque[int] = collections.deque()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, *frames: Frame) -> None:
        """Blocks until all frames are in the socket. Together they cost one system call, and wake the peer once."""
        parts: list[bytes] = []
        with self._sending:
            for frame in frames:
                if frame.fds:  # They travel with the first byte of their frame.
                    self._send_bytes(parts)
                    parts = []
                    self._send_with_fds(frame)
                else:
                    parts.append(frame.encode())
            self._send_bytes(parts)

    def _send_bytes(self, parts: list[bytes]) -> None:
        if parts:
            self._socket.sendall(parts[0] if len(parts) == 1 else b"".join(parts))

    def _send_with_fds(self, frame: Frame) -> None:
        message = memoryview(frame.encode())
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", frame.fds))
        sent = self._socket.sendmsg([message], [rights])
        if sent < len(message):
            self._socket.sendall(message[sent:])

    def wait(self, timeout: float) -> bool:
        """Whether `receive` has something to read, waiting for it at most `timeout` seconds."""
        if len(self._buffer) >= _HEADER.size:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def receive(self) -> Frame | None:
        """The next frame, or `None` when the peer is gone."""
        if not self._fill(_HEADER.size):
            return None
        kind, fd_count, flags, text_len, data_len, *numbers = _HEADER.unpack_from(self._buffer)
        text_end = _HEADER.size + text_len
        end = text_end + data_len
        if not self._fill(end):
            return None
        frame = Frame(kind, flags, *numbers)
        # Copies of their own, so that Arrow gets aligned memory and the buffer can be cut.
        with memoryview(self._buffer) as view:
            if text_len:
                frame.text = json.loads(bytes(view[_HEADER.size : text_end]))
            if data_len:
                frame.data = bytes(view[text_end:end])
        del self._buffer[:end]
        if fd_count:
            frame.fds = self._take_fds(fd_count)
        return frame

    def buffered_frame(self) -> bool:
        """Whether a whole header is already here, so that `poll` on the socket would say too little."""
        return len(self._buffer) >= _HEADER.size

    def _fill(self, size: int) -> bool:
        while len(self._buffer) < size:
            data, ancillary, flags, _ = self._socket.recvmsg(
                max(_READ_SIZE, size - len(self._buffer)),
                _ANCILLARY_SIZE,
                socket.MSG_CMSG_CLOEXEC,
            )
            if flags & socket.MSG_CTRUNC:
                raise ProtocolError("descriptors were lost on the way: is the limit of open files reached?")
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds = array.array("i")
                    fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                    self._fds.extend(fds)
            if not data:
                return False
            self._buffer += data
        return True

    def _take_fds(self, count: int) -> tuple[int, ...]:
        if count > len(self._fds):
            raise ProtocolError(f"a frame announced {count} descriptors but {len(self._fds)} came")
        return tuple(self._fds.popleft() for _ in range(count))
