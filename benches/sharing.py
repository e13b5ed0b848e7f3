#!/usr/bin/env python3
"""What it costs that workers share things: locks, counters, tables.

    cargo build --release
    benches/sharing.py                      everything
    benches/sharing.py lock table           some figures

Prints a table in Markdown. `table` makes a file of 2 GiB.
"""

from __future__ import annotations

import json
import re
import statistics
import threading
import time
from pathlib import Path

import measure
from measure import Program, Table, build_environment, in_ms, in_us, write_pipeline

LOCKS = 5_000
KILLS = 20
ROWS = 1_000_000
TABLE_ROWS = 256 << 20


def lock(program: Program, folder: Path, table: Table) -> None:
    """A lock that nobody else wants, and one that a worker dies with."""
    (folder / "in.txt").write_text("1\n")
    (folder / "work.py").write_text(
        "import millpond, time\n\n"
        "def lock(row):\n"
        "    began = time.perf_counter()\n"
        f"    for _ in range({LOCKS}):\n"
        "        with millpond.lock('a'):\n"
        "            pass\n"
        f"    return {{'line': str((time.perf_counter() - began) / {LOCKS})}}\n"
    )
    row_pipeline(folder, "")
    build_environment(program, folder)
    seconds = []
    for _ in range(max(program.rounds, 5)):
        measure.run([program.path, "run", "pipeline.yaml"], folder)
        seconds.append(float((folder / "out.txt").read_text()))
    table.row("a lock that is free, taken and given back", in_us(statistics.median(seconds)), in_us(max(seconds)), "")


def death(program: Program, folder: Path, table: Table) -> None:
    (folder / "in.txt").write_text("".join(f"{number}\n" for number in range(3 * KILLS)))
    for held in ("lock('a')", "semaphore('a', 1)"):
        (folder / "work.py").write_text(
            "import millpond, os, time\n\n"
            "def lock(row):\n"
            "    n = int(row['line'])\n"
            f"    with millpond.{held}:\n"
            "        dies = n % 3 == 1 and not os.path.exists(f'died-{n}')\n"
            "        began = time.monotonic()\n"
            "        time.sleep(0.02)\n"
            "        with open(f'{\"died\" if dies else \"held\"}-{n}', 'w') as file:\n"
            "            file.write(f'{began} {time.monotonic()}')\n"
            "        if dies:\n"
            "            os.kill(os.getpid(), 9)\n"
            "    return row\n"
        )
        row_pipeline(folder, ", batch: { rows: 1 }")
        build_environment(program, folder)
        measure.run([program.path, "run", "pipeline.yaml", "--workers", "3"], folder)
        times = sorted((*map(float, path.read_text().split()), path.name) for path in folder.glob("[dh]*-*"))
        gaps = [after[0] - before[1] for before, after in zip(times, times[1:]) if before[2].startswith("died")]
        name = f"from the death of a worker with a `{held.split('(')[0]}` to the next that has it"
        table.row(name, in_ms(statistics.median(gaps)), in_ms(max(gaps)), "100 ms")
        for path in folder.glob("[dh]*-*"):
            path.unlink()


def counters(program: Program, folder: Path, table: Table) -> None:
    """A million rows, four workers: with a counter in the function, and without."""
    (folder / "in.txt").write_text("".join(f"{number}\n" for number in range(ROWS)))
    for name, work in (("that does nothing", ""), ("of about 5 µs", "    sum(range(150))\n")):
        walls: dict[str, list[float]] = {"": [], "    rows.add()\n": []}
        for _ in range(max(program.rounds, 5)):
            for count, seconds in walls.items():
                (folder / "work.py").write_text(
                    "import millpond\n\nrows = millpond.counter('rows')\n\n"
                    f"def lock(row):\n{count}{work}    return row\n"
                )
                row_pipeline(folder, "")
                build_environment(program, folder)
                seconds.append(measure.run([program.path, "run", "pipeline.yaml", "--workers", "4"], folder).cpu)
        without, with_counter = (statistics.median(seconds) for seconds in walls.values())
        table.row(f"CPU of {ROWS:,} rows through a function {name}, with a counter", f"{with_counter:.2f} s", "", "")
        table.row("the same without it", f"{without:.2f} s", f"{with_counter / without:.3f} times", "1.05 times")
    state = ["--chaos", "1", "--chaos-rate", "0.1", "--state-dir", "killed"]
    measure.run([program.path, "run", "pipeline.yaml", "--workers", "4", *state], folder)
    (summary,) = (folder / "killed" / "runs").glob("*/summary.json")
    counted = json.loads(summary.read_text())
    killed = sum(fault["times"] for fault in counted["injected"] if fault["fault"] == "kill")
    table.row(f"what is counted when {killed} workers are killed", f"{counted['state']['counter']['rows']:,}", "", f"{ROWS:,}")


def shared_table(program: Program, folder: Path, table: Table) -> None:
    """A table of 2 GiB that four workers look up."""
    write_pipeline(
        folder,
        "",
        f'numbers: {{ sql: "SELECT value FROM generate_series(1, {TABLE_ROWS})" }}',
        "publish: { from: numbers, write: big.arrow }",
    )
    program.prepare(folder, "run", "pipeline.yaml")
    (folder / "in.txt").write_text("1\n2\n3\n4\n")
    peaks = []
    for shared, touch in (("", ""), ("shared: { big: { read: big.arrow } }", "    table = millpond.shared['big']\n")):
        (folder / "work.py").write_text(
            "import millpond, pyarrow.compute as pc, time\n\n"
            "def lock(row):\n"
            "    began = time.perf_counter()\n"
            f"{touch}"
            "    took = time.perf_counter() - began\n"
            f"{'    pc.sum(table[0])' if touch else ''}\n"
            "    millpond.barrier('all', 4).wait()\n"
            "    time.sleep(0.3)\n"
            "    return {'line': str(took)}\n"
        )
        row_pipeline(folder, ", batch: { rows: 1 }", shared)
        build_environment(program, folder)
        # At the end, when all have looked it up, and not while it is read.
        last = LastMemory()
        measure.run([program.path, "run", "pipeline.yaml", "--workers", "4"], folder)
        peaks.append(last.end())
    took = [float(line) for line in (folder / "out.txt").read_text().split()]
    grown = (peaks[1] - peaks[0]) / (TABLE_ROWS * 8)
    table.row("memory of all processes for a table of 2 GiB that four workers look up", f"{grown:.2f} times", "", "1 time")
    table.row("what a worker waits for it", in_ms(statistics.median(took)), in_ms(max(took)), "20 ms")


class LastMemory:
    """The memory of the workers that sleep at the end of a run: proportional, of all processes of millpond, while there are four of them."""

    def __init__(self) -> None:
        self._ends = threading.Event()
        self._bytes = 0
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def end(self) -> int:
        self._ends.set()
        self._thread.join()
        return self._bytes

    def _look(self) -> None:
        while not self._ends.wait(0.05):
            total, workers = 0, 0
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    name = (folder / "comm").read_text().strip()
                    if not name.startswith("millpond"):
                        continue
                    text = (folder / "smaps_rollup").read_text()
                except OSError:
                    continue
                total += sum(map(int, re.findall(r"^Pss_(?:Anon|Shmem): +(\d+) kB$", text, re.MULTILINE))) << 10
                workers += bool(re.fullmatch(r"millpond-\d+", name))
            if workers == 4:
                self._bytes = total


def row_pipeline(folder: Path, more: str, top: str = "") -> None:
    write_pipeline(
        folder,
        top,
        "rows: { read: in.txt }",
        f"worked: {{ from: rows, python: {{ call: work:lock, as: row }}{more} }}",
        "publish: { from: worked, write: out.txt }",
    )


FIGURES = {"lock": lock, "death": death, "counters": counters, "table": shared_table}


if __name__ == "__main__":
    measure.figures(__doc__, FIGURES)
