"""Frames over a socket pair."""

from __future__ import annotations

import os
import socket

from millpond.frame import Channel, Flag, Frame, Kind


def test_frames_sent_together_arrive_one_by_one() -> None:
    ours, theirs = (Channel(end) for end in socket.socketpair())
    read, write = os.pipe()
    frames = [
        Frame(Kind.BATCH, Flag.ORIGIN, stage=1, attempt=2**40, rows=3, data=b"\0" * 100),
        Frame(Kind.SEGMENT_OUT, segment=9, length=1 << 20, fds=(write,)),
        Frame(Kind.ERROR, attempt=5, text={"message": "ü"}, data=b"x"),
        Frame(Kind.DONE),
    ]
    ours.send(*frames)
    os.close(write)
    for sent in frames:
        came = theirs.receive()
        assert came is not None
        assert (came.kind, came.flags, came.attempt, came.text, came.data) == (
            sent.kind,
            sent.flags,
            sent.attempt,
            sent.text,
            sent.data,
        )
        for fd in came.fds:
            os.write(fd, b"arrived")
        came.close_fds()
    assert os.read(read, 10) == b"arrived"
    os.close(read)
    ours.send()
    ours.close()
    assert theirs.receive() is None
    theirs.close()
