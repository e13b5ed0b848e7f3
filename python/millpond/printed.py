"""Standard output and error of a worker: every piece of text that Python code writes is told with its batch and row.

Each piece is one write to the pipe, together with what it belongs to, so that it stays in order with what C libraries
and child processes write there, and is there when the process dies. `executor/log.rs` makes lines of the pieces.
"""

from __future__ import annotations

import builtins
import io
import os
import select
import sys
from fcntl import F_GETOWN, F_SETOWN, fcntl
from threading import get_ident
from typing import Any

from . import context

# Bytes of a piece: with its head it is not longer than what a pipe takes in one, whoever else writes to it.
_PIECE_BYTES = select.PIPE_BUF - 128

_LINE_END = ord("\n")

_print = builtins.print


class _Process:
    """Which process this is: one that user code forks writes to the same pipes."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        # Of the worker: it owns the pipes.
        self.worker = self.pid

    def forked(self) -> None:
        self.pid = os.getpid()


_process = _Process()


class Printed(io.TextIOWrapper):
    """Standard output or error."""

    def __init__(self, fd: int) -> None:
        self._bytes = _Bytes(fd)
        super().__init__(self._bytes, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self.mode = "w"  # type: ignore[misc]

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._bytes.put(text.encode(self.encoding, self.errors or "strict"))
        return len(text)


class _Bytes(io.BufferedWriter):
    """The same for bytes. Nothing is held back."""

    def __init__(self, fd: int) -> None:
        super().__init__(io.FileIO(fd, "w", closefd=False))
        self._fd = fd
        # Whether a line may have been begun in the attempt at hand.
        self.has_begun = False

    def write(self, data: Any, /) -> int:
        data = bytes(data)
        self.put(data)
        return len(data)

    def put(self, data: bytes) -> None:
        if not data:
            return
        # User code may have put something else in the pipe's place, which is to have the text alone.
        if fcntl(self._fd, F_GETOWN) != _process.worker:
            _write_all(self._fd, data)
            return
        if data[-1] != _LINE_END:
            self.has_begun = True
        for start in range(0, len(data), _PIECE_BYTES):
            self._put_piece(data[start : start + _PIECE_BYTES])

    def _put_piece(self, text: bytes) -> None:
        stage, batch, row = context.here()
        place = (len(text), _process.pid, get_ident(), stage, batch, row, text)
        piece = b"\x1f%d %d %d %d %d %d\n%b" % place
        try:
            written = os.write(self._fd, piece)
        except BlockingIOError:
            written = 0
        if written < len(piece):
            _write_all(self._fd, piece[written:])

    def end_lines(self) -> None:
        """An empty piece ends the lines that this process has begun."""
        if self.has_begun:
            self.has_begun = False
            if fcntl(self._fd, F_GETOWN) == _process.worker:
                self._put_piece(b"")


def take_over() -> None:
    """For the template only: makes the streams of a worker, of which 1 and 2 are pipes to the coordinator."""
    for fd in (1, 2):
        fcntl(fd, F_SETOWN, _process.worker)
    sys.stdout = sys.__stdout__ = Printed(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = Printed(2)  # type: ignore[misc]
    os.register_at_fork(after_in_child=_process.forked)
    builtins.print = _print_in_one


def end_lines() -> None:
    """The attempt is over, and so are the lines that its code has begun."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if isinstance(stream, Printed):
            stream._bytes.end_lines()


def _print_in_one(
    *values: object, sep: str | None = None, end: str | None = None, file: Any = None, flush: bool = False
) -> None:
    """`print`, with one write instead of one for each value."""
    stream = sys.stdout if file is None else file
    if type(stream) is Printed and (sep is None or type(sep) is str) and (end is None or type(end) is str):
        text = str(values[0]) if len(values) == 1 else (" " if sep is None else sep).join(map(str, values))
        stream.write(text + ("\n" if end is None else end))
    else:
        _print(*values, sep=sep, end=end, file=file, flush=flush)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:  # Whoever has the pipe too has made it so.
            select.select([], [fd], [])
