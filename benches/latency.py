#!/usr/bin/env python3
"""How long one waits: for a run, for a first batch, for a batch whose worker was killed; and what a batch costs on its way through a worker.

    cargo build --release
    benches/latency.py                      everything
    benches/latency.py run killed           some figures

Prints a table in Markdown. The environments of the pipelines are built before anything is measured.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import measure
from measure import Program, Table, build_environment, in_ms, in_us, write_pipeline

# Batches of the shorter and of the longer run: start and end of a run cost the same in both, so that the difference is of the batches.
SMALL_BATCHES = (2_000, 22_000)
LARGE_BATCHES = (16, 80)
LARGE_ROWS = 4 << 20
LARGE_BYTES = LARGE_ROWS * 8
KILLS = 20


def run_of_one_row(program: Program, folder: Path, table: Table) -> None:
    (folder / "in.csv").write_text("id,name\n1,one\n")
    write_pipeline(
        folder,
        "",
        "rows: { read: in.csv }",
        'upper: { from: rows, sql: "SELECT id, upper(name) AS name FROM rows" }',
        "publish: { from: upper, write: out.csv }",
    )
    walls = sorted(measure.run([program.path, "run", "pipeline.yaml"], folder).wall for _ in range(20))
    table.row("a run of one row through a query", in_ms(walls[10]), in_ms(walls[-1]), "50 ms")


def first_batch(program: Program, folder: Path, table: Table) -> None:
    (folder / "in.csv").write_text("id,value\n1,2\n")
    (folder / "work.py").write_text("def double(frame):\n    frame['value'] *= 2\n    return frame\n")
    write_pipeline(
        folder,
        "python: { requirements: [pandas] }",
        "rows: { read: in.csv }",
        "doubled: { from: rows, python: { call: work:double, as: pandas } }",
        "publish: { from: doubled, write: out.csv }",
    )
    build_environment(program, folder)
    first, whole = [], []
    for number in range(max(program.rounds, 5)):
        state = f"state-{number}"
        cost = measure.run([program.path, "run", "pipeline.yaml", "--state-dir", state], folder)
        (ended,) = [event for event in events(folder / state) if event.get("stage") == "doubled"]
        first.append(ended["t"])
        whole.append(cost.wall)
    table.row("the first batch of a pandas stage, done", in_ms(statistics.median(first)), in_ms(max(first)), "1,000 ms")
    table.row("that run as a whole", in_ms(statistics.median(whole)), in_ms(max(whole)), "")


def killed_worker(program: Program, folder: Path, table: Table) -> None:
    (folder / "in.txt").write_text("".join(f"{number}\n" for number in range(KILLS)))
    (folder / "work.py").write_text(
        "import os, signal, time\n\n"
        "def die_once(batch):\n"
        "    path = f'times-{batch[0][0]}'\n"
        "    is_first = not os.path.exists(path)\n"
        "    with open(path, 'a') as times:\n"
        "        print(time.monotonic(), file=times)\n"
        "    if is_first:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return batch\n"
    )
    write_pipeline(
        folder,
        "",
        "rows: { read: in.txt }",
        "survived: { from: rows, python: { call: work:die_once, as: arrow }, batch: { rows: 1 } }",
        "publish: { from: survived, write: out.txt }",
    )
    build_environment(program, folder)
    for workers in (1, 2):
        measure.run([program.path, "run", "pipeline.yaml", "--workers", str(workers)], folder)
        gaps = []
        for times in folder.glob("times-*"):
            killed, again = map(float, times.read_text().split())
            gaps.append(again - killed)
            times.unlink()
        name = f"from the death of a worker to the next attempt of its batch, --workers {workers}"
        table.row(name, in_ms(statistics.median(gaps)), in_ms(max(gaps)), "100 ms")


def small_batches(program: Program, folder: Path, table: Table) -> None:
    (folder / "work.py").write_text("def same(batch):\n    return batch\n")

    def prepare(size: int, stage: str) -> None:
        (folder / "in.txt").write_text("".join(f"{number}\n" for number in range(size)))
        write_pipeline(
            folder,
            "",
            "rows: { read: in.txt, batch: { rows: 1 } }",
            "same: { from: rows, python: { call: work:same, as: arrow } }" if stage else "",
            f"publish: {{ from: {stage or 'rows'}, write: out.txt }}",
        )

    wall, cpu = per_batch(program, folder, prepare, "same", SMALL_BATCHES)
    table.row("a batch of one row through a worker: wall", in_us(wall), "", "100 µs")
    table.row("the same: CPU", in_us(cpu), "", "100 µs")


def large_batches(program: Program, folder: Path, table: Table) -> None:
    (folder / "work.py").write_text(
        "import numpy as np\n"
        "import pyarrow as pa\n\n"
        f"BATCH = pa.record_batch({{'value': np.arange({LARGE_ROWS})}})\n\n"
        "def other(batch):\n"
        "    return BATCH\n"
    )
    write_pipeline(
        folder,
        "",
        f'numbers: {{ sql: "SELECT value FROM generate_series(1, {LARGE_ROWS})" }}',
        "publish: { from: numbers, write: batch.arrow }",
    )
    program.prepare(folder, "run", "pipeline.yaml")
    (folder / "in").mkdir()

    def prepare(size: int, stage: str) -> None:
        for link in (folder / "in").iterdir():
            link.unlink()
        for number in range(size):
            (folder / "in" / f"{number:04}.arrow").symlink_to("../batch.arrow")
        cut = f"batch: {{ rows: {LARGE_ROWS}, bytes: {2 * LARGE_BYTES} }}"
        write_pipeline(
            folder,
            "python: { requirements: [numpy] }",
            f'rows: {{ read: "in/*.arrow", {cut} }}',
            "other: { from: rows, python: { call: work:other, as: arrow } }" if stage else "",
            f'total: {{ from: {stage or "rows"}, sql: "SELECT sum(value) AS sum FROM {stage or "rows"}" }}',
            "publish: { from: total, write: out.csv }",
        )

    wall, cpu = per_batch(program, folder, prepare, "other", LARGE_BATCHES)
    copies = 2 * copy_seconds(LARGE_BYTES)
    table.row("a batch of 32 MiB through a worker and back: wall", in_ms(wall), "", "")
    table.row("the same: CPU", in_ms(cpu), "", in_ms(1.3 * copies))
    table.row("two copies of 32 MiB in memory", in_ms(copies), "", "")


def per_batch(
    program: Program, folder: Path, prepare: Callable[[int, str], None], stage: str, sizes: tuple[int, int]
) -> tuple[float, float]:
    """Seconds of wall and CPU time that a stage adds for each batch."""
    wall = cpu = 0.0
    for with_stage in (stage, ""):
        for size in sizes:
            prepare(size, with_stage)
            if with_stage:
                build_environment(program, folder)
            cost = program.cost(folder, "run", "pipeline.yaml")
            sign = 1 if (size == sizes[1]) == bool(with_stage) else -1
            wall += sign * cost.wall
            cpu += sign * cost.cpu
    batches = sizes[1] - sizes[0]
    return wall / batches, cpu / batches


def copy_seconds(size: int) -> float:
    """Of one copy of so many bytes in memory."""
    source, target = bytearray(b"1") * size, memoryview(bytearray(size))
    times = []
    for _ in range(20):
        start = time.thread_time()
        target[:] = source
        times.append(time.thread_time() - start)
    return statistics.median(times)


def events(state: Path) -> Iterator[dict[str, object]]:
    """What the only run of a state folder wrote down."""
    (file,) = state.glob("runs/*/events.jsonl")
    with file.open() as lines:
        yield from map(json.loads, lines)


FIGURES = {
    "run": run_of_one_row,
    "first": first_batch,
    "killed": killed_worker,
    "small": small_batches,
    "large": large_batches,
}


if __name__ == "__main__":
    measure.figures(__doc__, FIGURES)
