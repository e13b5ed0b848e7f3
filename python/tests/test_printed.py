"""What is printed in a worker, as the coordinator reads it."""

import fcntl
import io
import os
import threading
from collections.abc import Iterator

import pytest

from millpond import context, printed


@pytest.fixture
def stream() -> Iterator[tuple[printed.Printed, int]]:
    """A stream of this process as a worker, and the end of its pipe."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETOWN, os.getpid())
    yield printed.Printed(writer), reader
    os.close(reader)
    os.close(writer)


def pieces(reader: int) -> list[tuple[str, bytes]]:
    """Stage, batch and row of each piece, and its text."""
    data, read = os.read(reader, 1 << 16), []
    while data:
        head, _, rest = data.partition(b"\n")
        length, process, thread, place = head.decode().split(" ", 3)
        assert (int(process), int(thread)) == (os.getpid(), threading.get_ident())
        assert length[0] == "\x1f"
        size = int(length[1:])
        read.append((place, rest[:size]))
        data = rest[size:]
    return read


def test_a_print_is_one_piece(stream: tuple[printed.Printed, int]) -> None:
    out, reader = stream
    printed._print_in_one(1, "ü", sep="-", file=out)
    printed._print_in_one(file=out, end="")
    printed._print_in_one("x", end="", file=out, flush=True)
    out.buffer.write(memoryview(b"bytes"))
    assert pieces(reader) == [("-1 -1 -1", text) for text in ("1-ü\n".encode(), b"x", b"bytes")]


def test_a_piece_has_its_place_and_fits_into_a_pipe_at_once(
    stream: tuple[printed.Printed, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, reader = stream
    monkeypatch.setattr(context.worker, "is_busy", True)
    monkeypatch.setattr(context.worker, "stage", 4)
    context.enter_batch(0, "s", 12)
    context.enter_rows(lambda: 7)
    out.write("z" * 10_000)
    read = pieces(reader)
    context.enter_batch(0, "none", 0)
    assert {place for place, _ in read} == {"4 12 7"}
    assert b"".join(text for _, text in read) == b"z" * 10_000
    assert max(len(text) for _, text in read) < 4096 - 100


def test_lines_end_with_the_attempt_that_has_begun_them(stream: tuple[printed.Printed, int]) -> None:
    out, reader = stream
    out.write("whole\n")
    out._bytes.end_lines()
    out.write("begun")
    out._bytes.end_lines()
    out._bytes.end_lines()
    assert [text for _, text in pieces(reader)] == [b"whole\n", b"begun", b""]


def test_what_is_in_the_place_of_the_pipe_gets_the_text_alone(stream: tuple[printed.Printed, int]) -> None:
    out, _ = stream
    reader, writer = os.pipe()
    os.dup2(writer, out.fileno())
    out.write("text\n")
    assert os.read(reader, 100) == b"text\n"
    os.close(reader)
    os.close(writer)


def test_print_elsewhere_is_as_ever(capsys: pytest.CaptureFixture[str]) -> None:
    text = io.StringIO()
    printed._print_in_one("a", "b", file=text, end="!")
    printed._print_in_one("c")
    assert (text.getvalue(), capsys.readouterr().out) == ("a b!", "c\n")
    with pytest.raises(TypeError):
        printed._print_in_one("a", sep=1)  # type: ignore[arg-type]


def test_only_text_is_written(stream: tuple[printed.Printed, int]) -> None:
    with pytest.raises(TypeError):
        stream[0].write(b"bytes")  # type: ignore[arg-type]
