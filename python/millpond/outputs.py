"""Output segments: shared memory that this worker writes batches to and the coordinator reads.

Mapping and zeroing fresh memory costs ten times as much as writing to it, so segments that the coordinator has
released are used again, the last one first (its pages are warm). Writing costs as much as many a function, so what lies
in shared memory already, columns of the input and arrays of the allocator, is referred to and not written again.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import fcntl
import mmap
import os
from collections.abc import Iterable

import pyarrow as pa

from .allocator import Allocator
from .errors import SharedMemoryError
from .frame import INLINE_LIMIT, Channel, Flag, Frame, Kind
from .leases import Leases
from .scatter import Holder, Parts, Place, describe, take_apart

MIN_SEGMENT = 1 << 20
MAX_FREE_SEGMENTS = 8
MAX_FREE_BYTES = 64 << 20
# A buffer is referred to from this size on, and a batch scattered if that many bytes of it are.
REFERRED_BUFFER = 64 << 10
REFERRED_BATCH = 512 << 10
_ALIGNMENT = 64

_F_ADD_SEALS = 1033
_F_SEAL_SEAL = 1
_F_SEAL_SHRINK = 2
_F_SEAL_GROW = 4


class OutputSegment:
    """A sealed memfd of this worker. It holds one batch at a time."""

    def __init__(self, segment_id: int, size: int) -> None:
        self.id = segment_id
        self.size = size
        self.announced = False
        # How many frames refer to it of which the coordinator has not released the batch.
        self.leases = 0
        self.fd = os.memfd_create("millpond-output", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(self.fd, 0, size)
            fcntl.fcntl(self.fd, _F_ADD_SEALS, _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_SEAL)
            self.map = mmap.mmap(self.fd, size)
        except OSError as error:
            os.close(self.fd)
            if error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT, errno.EFBIG):
                raise SharedMemoryError(
                    f"no room for an output of {size} bytes in shared memory: {error.strerror}"
                ) from None
            raise

    def sent(self) -> None:
        """The coordinator has the descriptor."""
        os.close(self.fd)
        self.announced = True

    def close(self) -> None:
        """Gives the memory back. The coordinator's mapping, if any, keeps it until it is gone too."""
        self.map.close()
        if not self.announced:
            os.close(self.fd)


class ArraySegment:
    """A block of the allocator, as the coordinator knows it."""

    def __init__(self, segment_id: int, number: int, size: int, fd: int) -> None:
        self.id = segment_id
        self.number = number
        self.size = size
        self.announced = False
        self.leases = 0
        self.fd = fd

    def sent(self) -> None:
        self.announced = True


@dataclasses.dataclass(slots=True)
class Piece:
    """A buffer of a scattered batch. `block` is the number of the pinned block that it lies in, if it does."""

    address: int
    length: int
    place: Place | None = None
    block: int | None = None


@dataclasses.dataclass
class Written:
    """A batch that is ready to be sent: in `segment`, inline in `data`, or scattered, in `pieces`."""

    schema_id: int
    rows: int
    data: bytes = b""
    segment: OutputSegment | None = None
    offset: int = 0
    length: int = 0
    nodes: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    pieces: list[Piece] = dataclasses.field(default_factory=list)
    # What it is the reason for that they are not used again.
    leased: list[OutputSegment | ArraySegment] = dataclasses.field(default_factory=list)


class Outputs:
    """Writes batches, and keeps the output segments and schemas that the coordinator knows of."""

    def __init__(self, channel: Channel, leases: Leases, allocator: Allocator | None) -> None:
        self._channel = channel
        self._leases = leases
        self._allocator = allocator
        self._schemas: dict[pa.Schema, tuple[int, int]] = {}
        self._last_schema: tuple[pa.Schema, tuple[int, int]] | None = None  # To compare is faster than to hash.
        self._in_use: dict[int, OutputSegment | ArraySegment] = {}
        self._free: list[OutputSegment] = []  # The oldest first.
        self._arrays: dict[int, ArraySegment] = {}  # By number of the block, whether it is lent or free.
        self._next_segment = 1

    def write(self, batch: pa.RecordBatch) -> Written:
        """Writes `batch`, or finds out where it lies. Announces its schema, but sends nothing of the batch itself.

        What may lie in an array of this process is to be settled when nobody refers to `batch` any more.
        """
        schema_id, preamble = self._schema(batch.schema)
        size = pa.ipc.get_record_batch_size(batch)
        if size <= INLINE_LIMIT:
            return Written(schema_id, batch.num_rows, data=batch.serialize().to_pybytes(), length=size)
        scattered = self._scattered(batch, schema_id, size) if size >= REFERRED_BATCH else None
        if scattered is not None:
            return scattered
        # Arrow writes a batch only behind its schema: let that end where the batch shall begin.
        offset = -(-preamble // _ALIGNMENT) * _ALIGNMENT
        segment = self._acquire(offset + size)
        with memoryview(segment.map) as whole, whole[offset - preamble :] as target:
            sink = pa.FixedSizeBufferWriter(pa.py_buffer(target))
            writer = pa.ipc.new_stream(sink, batch.schema)
            writer.write_batch(batch)
            written = sink.tell() - preamble
            del writer, sink
        if written != size:
            raise AssertionError(f"a batch of {size} bytes took {written}")
        return Written(schema_id, batch.num_rows, segment=segment, offset=offset, length=size, leased=[segment])

    def settle(self, written: Iterable[Written]) -> None:
        """Decides what becomes of the arrays that batches lie in: they are lent if nothing in this process can change
        them any more, and copied if user code has kept them."""
        written = list(written)
        numbers = {piece.block for one in written for piece in one.pieces if piece.block is not None}
        if self._allocator is None or not numbers:
            return
        kept = {number for number in numbers if not self._allocator.lend(number)}
        for one in written:
            self._lease_arrays(one, kept)
        for one in written:
            self._copy(one, [piece for piece in one.pieces if piece.place is None])
            self._unpin(one.pieces)

    def fill(self, frame: Frame, written: Written, origin: bytes = b"") -> None:
        """Puts `written` into `frame`, which says whose output it is and is sent by the caller."""
        for segment in written.leased:
            self._announce(segment)
        data = written.data
        if written.pieces:
            places = [piece.place for piece in written.pieces if piece.place is not None]
            data = describe(written.nodes, places) + data
            written.length = len(data)
            frame.flags |= Flag.SCATTERED
        elif written.segment is not None:
            frame.segment, frame.offset = written.segment.id, written.offset
        frame.schema, frame.rows, frame.length = written.schema_id, written.rows, written.length
        frame.data = data + origin if origin else data

    def discard(self, written: Written) -> None:
        """Takes back a batch that will not be sent."""
        for segment in written.leased:
            self.release(segment.id)
        self._unpin(written.pieces)

    def release(self, segment_id: int) -> None:
        """A segment may be used again: the coordinator has no more views of its batch."""
        segment = self._in_use.get(segment_id)
        if segment is None:
            return
        segment.leases -= 1
        if segment.leases > 0:
            return
        del self._in_use[segment_id]
        if isinstance(segment, OutputSegment):
            self._free.append(segment)
        elif self._allocator is not None:
            self._allocator.take_back(segment.number)
        self.trim()

    def trim(self) -> None:
        """Gives free memory beyond what may be kept back to the system."""
        blocks = 0 if self._allocator is None else self._allocator.free_bytes()
        # One is kept whatever its size: batches as large as the last one come again.
        while len(self._free) > (0 if blocks else 1) and (
            len(self._free) > MAX_FREE_SEGMENTS or blocks + sum(free.size for free in self._free) > MAX_FREE_BYTES
        ):
            oldest = self._free.pop(0)
            oldest.close()
            self._drop(oldest)
        while self._allocator is not None and blocks > MAX_FREE_BYTES:
            number = self._allocator.evict_but_one()
            if number is None:
                break
            self._forget_block(number)
            blocks = self._allocator.free_bytes()

    def _scattered(self, batch: pa.RecordBatch, schema_id: int, size: int) -> Written | None:
        """The batch where it lies, if enough of it lies in shared memory."""
        parts = take_apart(batch)
        # A slice of text or lists may refer to much more than it has.
        if parts is None or sum(buffer.size for buffer in parts.buffers) > size + size // 4:
            return None
        pieces = self._pieces(parts)
        if sum(piece.length for piece in pieces if _is_shared(piece)) < REFERRED_BATCH:
            self._unpin(pieces)
            return None
        written = Written(schema_id, batch.num_rows, nodes=parts.nodes, pieces=pieces)
        try:
            self._copy(written, [piece for piece in pieces if not _is_shared(piece)])
        except BaseException:
            self._unpin(pieces)
            raise
        return written

    def _pieces(self, parts: Parts) -> list[Piece]:
        """The buffers of a batch, and where they lie in shared memory, if they do."""
        pieces = [Piece(buffer.address, buffer.size) for buffer in parts.buffers]
        used: dict[tuple[Holder, int], int] = {}
        for piece in pieces:
            if piece.length >= REFERRED_BUFFER:
                self._find(piece)
            if _is_shared(piece):
                used[_holder(piece)] = used.get(_holder(piece), 0) + piece.length
        # A small part of a segment would keep all of it.
        for piece in pieces:
            if _is_shared(piece) and used[_holder(piece)] * 2 < self._size(piece):
                self._unpin([piece])
                piece.place = None
        return pieces

    def _find(self, piece: Piece) -> None:
        """Notes where a buffer lies: in the input, or in an array, which is pinned."""
        found = self._leases.find(piece.address, piece.length)
        if found is not None:
            segment, offset = found
            piece.place = Place(offset, piece.length, segment.id, Holder.RECEIVER)
        elif self._allocator is not None:
            piece.block = self._allocator.pin(piece.address, piece.length)

    def _size(self, piece: Piece) -> int:
        """Bytes of what a shared buffer lies in."""
        if piece.block is not None and self._allocator is not None:
            return self._allocator.block(piece.block).size
        assert piece.place is not None, "only called of what is shared"
        return self._leases.size(piece.place.segment)

    def _unpin(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            if piece.block is not None and self._allocator is not None:
                self._allocator.unpin(piece.block)
                piece.block = None

    def _copy(self, written: Written, pieces: list[Piece]) -> None:
        """Copies buffers to where the coordinator can read them: into the frame, or if they are large, a segment."""
        if sum(piece.length for piece in pieces) + len(written.data) <= INLINE_LIMIT:
            for piece in pieces:
                piece.place = Place(len(written.data), piece.length, 0, Holder.FRAME)
                written.data += ctypes.string_at(piece.address, piece.length)
            return
        segment = self._acquire(sum(_aligned(piece.length) for piece in pieces))
        written.leased.append(segment)
        start, offset = pa.py_buffer(segment.map).address, 0
        for piece in pieces:
            ctypes.memmove(start + offset, piece.address, piece.length)
            piece.place = Place(offset, piece.length, segment.id, Holder.SENDER)
            offset += _aligned(piece.length)

    def _lease_arrays(self, written: Written, kept: set[int]) -> None:
        """Gives the pieces in blocks that were lent their places."""
        assert self._allocator is not None, "there are blocks"
        leased: dict[int, ArraySegment] = {}
        for piece in written.pieces:
            if piece.block is None or piece.block in kept:
                continue
            number, piece.block = piece.block, None
            block = self._allocator.block(number)
            segment = self._arrays.get(number)
            if segment is None:
                segment = ArraySegment(self._new_id(), number, block.size, block.fd)
                self._arrays[number] = segment
            leased[number] = segment
            piece.place = Place(piece.address - block.address, piece.length, segment.id, Holder.SENDER)
        for segment in leased.values():
            self._in_use[segment.id] = segment
            segment.leases += 1
            written.leased.append(segment)

    def _forget_block(self, number: int) -> None:
        segment = self._arrays.pop(number, None)
        if segment is not None:
            self._drop(segment)

    def _drop(self, segment: OutputSegment | ArraySegment) -> None:
        if segment.announced:
            self._channel.send(Frame(Kind.DROP, segment=segment.id))

    def _schema(self, schema: pa.Schema) -> tuple[int, int]:
        """Id of a schema, and the bytes that its message takes."""
        if self._last_schema is not None and schema.equals(self._last_schema[0]):
            return self._last_schema[1]
        known = self._schemas.get(schema)
        if known is None:
            message = schema.serialize().to_pybytes()
            known = (len(self._schemas) + 1, len(message))
            self._schemas[schema] = known
            self._channel.send(Frame(Kind.SCHEMA_OUT, schema=known[0], data=message))
        self._last_schema = (schema, known)
        return known

    def _acquire(self, size: int) -> OutputSegment:
        size_class = max(MIN_SEGMENT, 1 << (size - 1).bit_length())
        segment = self._take_free(size_class)
        if segment is None:
            segment = OutputSegment(self._new_id(), size_class)
        segment.leases = 1
        self._in_use[segment.id] = segment
        return segment

    def _new_id(self) -> int:
        self._next_segment += 1
        return self._next_segment - 1

    def _take_free(self, size_class: int) -> OutputSegment | None:
        for index in reversed(range(len(self._free))):
            if self._free[index].size == size_class:
                return self._free.pop(index)
        return None

    def _announce(self, segment: OutputSegment | ArraySegment) -> None:
        if segment.announced:
            return
        self._channel.send(Frame(Kind.SEGMENT_OUT, segment=segment.id, length=segment.size, fds=(segment.fd,)))
        segment.sent()


def _is_shared(piece: Piece) -> bool:
    return piece.place is not None or piece.block is not None


def _holder(piece: Piece) -> tuple[Holder, int]:
    """What a shared buffer lies in."""
    if piece.block is not None:
        return Holder.SENDER, piece.block
    assert piece.place is not None, "only called of what is shared"
    return Holder.RECEIVER, piece.place.segment


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
