"""Input segments: batches that the coordinator wrote, read where they lie.

A batch is leased: whatever is derived from it without a copy (columns, slices, numpy views) keeps the lease, and when
the last of them is gone the lease ends and the coordinator may write another batch to its place.
"""

from __future__ import annotations

import collections
import gc
import mmap

import pyarrow as pa

from .frame import Frame, Kind, ProtocolError

# Reference cycles keep a lease until the garbage collector runs. It is asked to when a lease has outlived this many
# attempts, and not again for as many: user code may mean to keep what it has.
_OLD_AFTER_ATTEMPTS = 8


class Lease:
    """Owner of the memory of one batch. Its finalizer may run at any point of the program, so it only takes a note."""

    __slots__ = ("_ended", "_segment", "attempt", "segment_id")

    def __init__(self, segment: Segment, attempt: int, ended: collections.deque[Lease]) -> None:
        self._segment: Segment | None = segment
        self._ended: collections.deque[Lease] | None = ended
        self.segment_id = segment.id
        self.attempt = attempt

    def __del__(self) -> None:
        ended, self._ended, self._segment = self._ended, None, None
        if ended is not None:
            ended.append(self)


class Segment:
    """A segment of the coordinator, mapped read-only until the last lease on it is gone."""

    def __init__(self, segment_id: int, fd: int, length: int) -> None:
        self.id = segment_id
        self.length = length
        self._map = mmap.mmap(fd, length, prot=mmap.PROT_READ)
        self.address: int = pa.py_buffer(self._map).address


class Leases:
    """All input segments of a worker and what is leased of them."""

    def __init__(self) -> None:
        self._segments: dict[int, Segment] = {}
        self._ended: collections.deque[Lease] = collections.deque()
        # Outstanding leases: attempt -> number of attempts that had started when it did.
        self._outstanding: dict[int, int] = {}
        self._attempts = 0
        self._collected_at = 0

    def add_segment(self, frame: Frame) -> None:
        (fd,) = frame.fds
        self._segments[frame.segment] = Segment(frame.segment, fd, frame.length)
        frame.close_fds()

    def forget_segment(self, segment_id: int) -> None:
        """The segment is unmapped with its last lease."""
        self._segments.pop(segment_id, None)

    def read(self, frame: Frame, schema: pa.Schema) -> pa.RecordBatch:
        """The batch of a `RUN` frame, without a copy where it lies in a segment."""
        self._attempts += 1
        if frame.segment == 0:
            return pa.ipc.read_record_batch(pa.py_buffer(frame.data), schema)
        segment = self._segments.get(frame.segment)
        if segment is None or frame.offset + frame.length > segment.length:
            raise ProtocolError(f"the batch of attempt {frame.attempt} lies outside the segments that were announced")
        self._outstanding[frame.attempt] = self._attempts
        lease = Lease(segment, frame.attempt, self._ended)
        buffer = pa.foreign_buffer(segment.address + frame.offset, frame.length, base=lease)
        return pa.ipc.read_record_batch(buffer, schema)

    def outstanding(self) -> bool:
        """Whether any lease has not been released to the coordinator yet."""
        return bool(self._outstanding)

    def release(self) -> list[Frame]:
        """What tells the coordinator which leases have ended since it was told last."""
        frames = []
        while self._ended:
            lease = self._ended.popleft()
            self._outstanding.pop(lease.attempt, None)
            frames.append(Frame(Kind.RELEASE_INPUT, attempt=lease.attempt, segment=lease.segment_id))
        return frames

    def collect_old(self) -> None:
        """Breaks the reference cycles that may hold old leases."""
        oldest = next(iter(self._outstanding.values()), self._attempts)
        if self._attempts - max(oldest, self._collected_at) >= _OLD_AFTER_ATTEMPTS:
            self.collect()

    def collect(self) -> None:
        self._collected_at = self._attempts
        gc.collect()
