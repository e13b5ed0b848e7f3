"""Output segments: shared memory that this worker writes batches to and the coordinator reads.

Mapping and zeroing fresh memory costs ten times as much as writing to it, so segments that the coordinator has
released are used again, the last one first (its pages are warm).
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import mmap
import os

import pyarrow as pa

from .errors import SharedMemoryError
from .frame import INLINE_LIMIT, Channel, Frame, Kind

MIN_SEGMENT = 1 << 20
MAX_FREE_SEGMENTS = 8
MAX_FREE_BYTES = 64 << 20
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
        self.fd = os.memfd_create("millpond-output", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(self.fd, 0, size)
            fcntl.fcntl(self.fd, _F_ADD_SEALS, _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_SEAL)
            self.map = mmap.mmap(self.fd, size)
        except OSError as error:
            os.close(self.fd)
            if error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT):
                raise SharedMemoryError(
                    f"no room for an output of {size} bytes in shared memory: {error.strerror}"
                ) from None
            raise

    def close(self) -> None:
        """Gives the memory back. The coordinator's mapping, if any, keeps it until it is gone too."""
        self.map.close()
        if not self.announced:
            os.close(self.fd)


@dataclasses.dataclass
class Written:
    """A batch that is ready to be sent: in `segment`, or inline in `data`."""

    schema_id: int
    rows: int
    data: bytes = b""
    segment: OutputSegment | None = None
    offset: int = 0
    length: int = 0


class Outputs:
    """Writes batches, and keeps the output segments and schemas that the coordinator knows of."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._schemas: dict[pa.Schema, tuple[int, int]] = {}
        self._last_schema: tuple[pa.Schema, tuple[int, int]] | None = None  # To compare is faster than to hash.
        self._in_use: dict[int, OutputSegment] = {}
        self._free: list[OutputSegment] = []  # The oldest first.
        self._next_segment = 1

    def write(self, batch: pa.RecordBatch) -> Written:
        """Serializes `batch`. Announces its schema, but sends nothing of the batch itself."""
        schema_id, preamble = self._schema(batch.schema)
        size = pa.ipc.get_record_batch_size(batch)
        if size <= INLINE_LIMIT:
            return Written(schema_id, batch.num_rows, data=batch.serialize().to_pybytes(), length=size)
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
        return Written(schema_id, batch.num_rows, segment=segment, offset=offset, length=size)

    def fill(self, frame: Frame, written: Written, origin: bytes = b"") -> None:
        """Puts `written` into `frame`, which says whose output it is and is sent by the caller."""
        frame.schema, frame.rows, frame.length = written.schema_id, written.rows, written.length
        frame.data = written.data + origin if origin else written.data
        if written.segment is not None:
            self._announce(written.segment)
            frame.segment, frame.offset = written.segment.id, written.offset

    def discard(self, written: Written) -> None:
        """Takes back a batch that will not be sent."""
        if written.segment is not None:
            self.release(written.segment.id)

    def release(self, segment_id: int) -> None:
        """A segment may be used again: the coordinator has no more views of its batch."""
        segment = self._in_use.pop(segment_id, None)
        if segment is None:
            return
        self._free.append(segment)
        # One is kept whatever its size: batches as large as the last one come again.
        while len(self._free) > 1 and (
            len(self._free) > MAX_FREE_SEGMENTS or sum(free.size for free in self._free) > MAX_FREE_BYTES
        ):
            oldest = self._free.pop(0)
            oldest.close()
            if oldest.announced:
                self._channel.send(Frame(Kind.DROP, segment=oldest.id))

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
            segment = OutputSegment(self._next_segment, size_class)
            self._next_segment += 1
        self._in_use[segment.id] = segment
        return segment

    def _take_free(self, size_class: int) -> OutputSegment | None:
        for index in reversed(range(len(self._free))):
            if self._free[index].size == size_class:
                return self._free.pop(index)
        return None

    def _announce(self, segment: OutputSegment) -> None:
        if segment.announced:
            return
        self._channel.send(Frame(Kind.SEGMENT_OUT, segment=segment.id, length=segment.size, fds=(segment.fd,)))
        os.close(segment.fd)
        segment.announced = True
