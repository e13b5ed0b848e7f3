"""Input segments: batches that the coordinator wrote, read where they lie.

A batch is leased: whatever is derived from it without a copy (columns, slices, numpy views) keeps the lease, and when
the last of them is gone the lease ends and the coordinator may write another batch to its place.
"""

from __future__ import annotations

import collections
import gc
import mmap

import pyarrow as pa

from .frame import Flag, Frame, Kind, ProtocolError
from .scatter import Holder, Place, put_together, read_description

# Reference cycles keep a lease until the garbage collector runs. It is asked to when a lease has outlived this many
# attempts, and not again for as many: user code may mean to keep what it has.
_OLD_AFTER_ATTEMPTS = 8
# To test a plain number takes a tenth of the time.
_SCATTERED = Flag.SCATTERED


class Lease:
    """Owner of what a batch has in one segment. Its finalizer may run at any point of the program, so it only takes a
    note."""

    __slots__ = ("_ended", "attempt", "segment")

    def __init__(self, segment: Segment, attempt: int, ended: collections.deque[Lease]) -> None:
        self.segment = segment
        self._ended: collections.deque[Lease] | None = ended
        self.attempt = attempt

    def __del__(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended.append(self)


class Segment:
    """A segment of the coordinator, mapped read-only until the last lease on it is gone."""

    def __init__(self, segment_id: int, fd: int, length: int) -> None:
        self.id = segment_id
        self.length = length
        self.leases = 0
        self._map = mmap.mmap(fd, length, prot=mmap.PROT_READ)
        self.address: int = pa.py_buffer(self._map).address


class Leases:
    """All input segments of a worker and what is leased of them."""

    def __init__(self) -> None:
        self._segments: dict[int, Segment] = {}
        self._ended: collections.deque[Lease] = collections.deque()
        # Attempts with outstanding leases: the number of attempts that had started when each did, and of its leases.
        self._outstanding: dict[int, int] = {}
        self._outstanding_leases: dict[int, int] = {}
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
        if frame.flags & _SCATTERED:
            return self._read_scattered(frame, schema)
        if frame.segment == 0:
            return pa.ipc.read_record_batch(pa.py_buffer(frame.data), schema)
        lease = self._lease(frame.segment, frame.attempt)
        place = Place(frame.offset, frame.length, frame.segment, Holder.SENDER)
        return pa.ipc.read_record_batch(_leased(lease, place), schema)

    def find(self, address: int, length: int) -> tuple[Segment, int] | None:
        """The leased segment that has all these bytes, and where in it they are."""
        for segment in self._segments.values():
            offset = address - segment.address
            if segment.leases > 0 and 0 <= offset <= segment.length - length:
                return segment, offset
        return None

    def size(self, segment_id: int) -> int:
        return self._segments[segment_id].length

    def outstanding(self) -> bool:
        """Whether any lease has not been released to the coordinator yet."""
        return bool(self._outstanding)

    def release(self) -> list[Frame]:
        """What tells the coordinator which leases have ended since it was told last."""
        frames = []
        while self._ended:
            lease = self._ended.popleft()
            lease.segment.leases -= 1
            left = self._outstanding_leases.get(lease.attempt, 1) - 1
            if left == 0:
                self._outstanding.pop(lease.attempt, None)
                self._outstanding_leases.pop(lease.attempt, None)
            else:
                self._outstanding_leases[lease.attempt] = left
            frames.append(Frame(Kind.RELEASE_INPUT, attempt=lease.attempt, segment=lease.segment.id))
        return frames

    def _lease(self, segment_id: int, attempt: int) -> Lease:
        segment = self._segments.get(segment_id)
        if segment is None:
            raise ProtocolError(f"attempt {attempt} refers to segment {segment_id}, which was not announced")
        self._outstanding.setdefault(attempt, self._attempts)
        self._outstanding_leases[attempt] = self._outstanding_leases.get(attempt, 0) + 1
        segment.leases += 1
        return Lease(segment, attempt, self._ended)

    def _read_scattered(self, frame: Frame, schema: pa.Schema) -> pa.RecordBatch:
        nodes, places, inline_at = read_description(frame.data)
        inline = pa.py_buffer(frame.data).slice(inline_at)
        leases = {number: self._lease(number, frame.attempt) for number in {place.segment for place in places} - {0}}
        buffers = [
            _leased(leases[place.segment], place) if place.segment else inline.slice(place.offset, place.length)
            for place in places
        ]
        return put_together(schema, nodes, buffers)

    def collect_old(self) -> None:
        """Breaks the reference cycles that may hold old leases."""
        oldest = next(iter(self._outstanding.values()), self._attempts)
        if self._attempts - max(oldest, self._collected_at) >= _OLD_AFTER_ATTEMPTS:
            self.collect()

    def collect(self) -> None:
        self._collected_at = self._attempts
        gc.collect()


def _leased(lease: Lease, place: Place) -> pa.Buffer:
    """The buffer at `place`; whatever is made of it without a copy keeps the lease."""
    if place.offset + place.length > lease.segment.length:
        raise ProtocolError(f"a batch of attempt {lease.attempt} lies outside the segments that were announced")
    return pa.foreign_buffer(lease.segment.address + place.offset, place.length, base=lease)
