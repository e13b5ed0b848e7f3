"""Runs a command and measures it: time, CPU time and memory of the whole tree of its processes. Standard library only; Linux."""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

_SAMPLE_SECONDS = 0.02
_PR_SET_CHILD_SUBREAPER = 36
# Memory that belongs to processes, shared pages divided among them; without what the kernel caches of files.
_MEMORY = re.compile(rb"^Pss_(?:Anon|Shmem): +(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Cost:
    """Of one run of a command."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds, of all its processes."""
    peak: int
    """Bytes, of all its processes at one time, as far as looking every 20 ms shows."""


class Failed(Exception):
    """A command that is measured has failed."""


def run(command: Sequence[str | Path], folder: Path) -> Cost:
    """Runs `command` in `folder`."""
    _adopt_orphans()
    before = _cpu_of_children()
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        memory = _Memory(process.pid)
        status = process.wait()
        wall = time.perf_counter() - start
        peak = memory.end()
        _reap_orphans()
        if status != 0:
            output.seek(0)
            text = output.read().decode(errors="replace")[-2000:]
            raise Failed(f"exit status {status}: {' '.join(map(str, command))}\n{text}")
    return Cost(wall, _cpu_of_children() - before, peak)


def median(rounds: int, measured: Callable[[], Cost]) -> Cost:
    """The median of several runs, for each figure by itself."""
    costs = [measured() for _ in range(rounds)]
    return Cost(
        statistics.median(cost.wall for cost in costs),
        statistics.median(cost.cpu for cost in costs),
        statistics.median_low(cost.peak for cost in costs),
    )


class Program:
    """The program that is measured, and how often."""

    def __init__(self, path: Path, rounds: int) -> None:
        self.path = path
        self.rounds = rounds

    def cost(self, folder: Path, *arguments: str) -> Cost:
        """Of `millpond` with these arguments in `folder`."""
        return median(self.rounds, lambda: run([self.path, *arguments], folder))

    def prepare(self, folder: Path, *arguments: str) -> None:
        """Runs `millpond` in `folder` without measuring it."""
        run([self.path, *arguments], folder)


def options(description: str | None) -> argparse.ArgumentParser:
    """The options that all scripts have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    built = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / "release" / "millpond"
    found = built if built.exists() else Path(shutil.which("millpond") or built)
    parser.add_argument("--millpond", type=Path, default=found, help="the program; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, of which the median is shown")
    parser.add_argument("--folder", type=Path, help="where data is made; default: a temporary folder")
    return parser


def program(options: argparse.Namespace) -> Program:
    """What the options name; ends the script if it is not there."""
    if not options.millpond.exists():
        sys.exit(f"{options.millpond} is not there: run `cargo build --release`, or name it with --millpond")
    return Program(options.millpond.resolve(), options.rounds)


Figure = Callable[[Program, Path, "Table"], None]


def figures(description: str | None, known: Mapping[str, Figure]) -> None:
    """A script that shows some of these figures, or all of them, each with a folder of its own."""
    parser = options(description)
    parser.add_argument("figures", nargs="*", help=f"of {', '.join(known)}; default: all")
    given = parser.parse_args()
    unknown = set(given.figures) - set(known)
    if unknown:
        parser.error(f"there is no figure {', '.join(sorted(unknown))}")
    measured = program(given)
    table = Table("what", "median", "most", "goal")
    for name in given.figures or known:
        with tempfile.TemporaryDirectory(prefix=f"millpond-{name}-", dir=given.folder) as folder:
            known[name](measured, Path(folder), table)


def write_pipeline(folder: Path, head: str, *stages: str) -> None:
    """`pipeline.yaml`, with what stands in front of the stages, and those that are not empty."""
    lines = "".join(f"  {stage}\n" for stage in stages if stage)
    (folder / "pipeline.yaml").write_text(f"version: 1\nname: measured\n{head}\nstages:\n{lines}")


def build_environment(program: Program, folder: Path) -> None:
    """That of `pipeline.yaml`, so that building it is not measured."""
    program.prepare(folder, "env", "build", "pipeline.yaml")


def in_ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms"


def in_us(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} µs"


class Table:
    """Prints a table in Markdown, a row as soon as it is known. The first column is text."""

    def __init__(self, *columns: str) -> None:
        print(f"\n| {' | '.join(columns)} |")
        print(f"|---|{'---:|' * (len(columns) - 1)}", flush=True)

    def row(self, *cells: str) -> None:
        print(f"| {' | '.join(cells)} |", flush=True)


class _Memory:
    """Looks at the memory of a process and its descendants until it is told to end."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def end(self) -> int:
        """The most that there was."""
        self._over.set()
        self._thread.join()
        return self._peak

    def _look(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            self._peak = max(self._peak, sum(map(_memory, _tree(self._pid))))


def _tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:
        try:
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children", "rb") as children:
                    found.extend(map(int, children.read().split()))
        except (FileNotFoundError, ProcessLookupError):
            pass  # It has ended.
    return found


def _memory(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
            return sum(int(kibibytes) for kibibytes in _MEMORY.findall(rollup.read())) << 10
    except (FileNotFoundError, ProcessLookupError):
        return 0  # It has ended.


def _adopt_orphans() -> None:
    """Makes this process the parent of what descendants leave behind, so that their CPU time is known."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "orphans cannot be adopted")


def _reap_orphans() -> None:
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass  # None are left.


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
