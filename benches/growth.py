#!/usr/bin/env python3
"""What a run costs when there is ten times as much of something: rows, stages, files, workers.

    cargo build --release
    benches/growth.py                       everything
    benches/growth.py files rows            some series
    benches/growth.py --largest 1000        only up to so many of each thing

Prints a table in Markdown. `each` is CPU time divided by the number of things; `each more` is what those cost that came in addition to
the line before: if it grows from line to line, the cost grows faster than what is done.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import measure
from measure import Cost, Program, Table

HEAD = "version: 1\nname: growth\nstages:\n"

# Microseconds that the function of the series `workers` takes for a row.
WORK = 20
ROWS_OF_WORKERS = 100_000


@dataclass(frozen=True)
class Series:
    """One thing of which there is more and more."""

    name: str
    sizes: list[int]
    prepare: Callable[[Path, int], list[str]]
    """Makes data and a pipeline in a folder; returns the arguments of the command that is measured."""
    work: Callable[[int], int] = lambda size: size
    """How many things a run of a size does."""
    needs_python: bool = False


def rows(folder: Path, size: int) -> list[str]:
    write_rows(folder / "in.csv", size)
    return pipeline(
        folder,
        "  rows: { read: in.csv }\n"
        "  kept: { from: rows, sql: \"SELECT id, upper(name) AS name, value * 2 AS twice FROM rows WHERE id % 10 > 0\" }\n"
        "  publish: { from: kept, write: out.csv }\n",
    )


def groups(folder: Path, size: int) -> list[str]:
    write_rows(folder / "in.csv", size)
    return pipeline(
        folder,
        "  rows: { read: in.csv }\n"
        "  groups: { from: rows, sql: \"SELECT id, count(*) AS n, sum(value) AS sum FROM rows GROUP BY id\" }\n"
        "  publish: { from: groups, write: out.csv }\n",
    )


def python_rows(folder: Path, size: int) -> list[str]:
    (folder / "work.py").write_text("def double(row):\n    row['value'] *= 2\n    return row\n")
    write_rows(folder / "in.csv", size)
    return pipeline(
        folder,
        "  rows: { read: in.csv }\n"
        "  doubled: { from: rows, python: { call: work:double, as: row } }\n"
        "  publish: { from: doubled, write: out.csv }\n",
    )


def workers(folder: Path, size: int) -> list[str]:
    (folder / "work.py").write_text(
        "import time\n\n"
        "def busy(row):\n"
        f"    end = time.thread_time_ns() + {WORK * 1000}\n"
        "    while time.thread_time_ns() < end:\n"
        "        pass\n"
        "    return row\n"
    )
    write_rows(folder / "in.csv", ROWS_OF_WORKERS)
    stages = (
        "  rows: { read: in.csv }\n"
        "  done: { from: rows, python: { call: work:busy, as: row } }\n"
        "  publish: { from: done, write: out.csv }\n"
    )
    return [*pipeline(folder, stages), "--workers", str(size)]


def files(folder: Path, size: int) -> list[str]:
    (folder / "in").mkdir()
    for number in range(size):
        write_rows(folder / "in" / f"{number:06}.csv", 10)
    return pipeline(folder, "  rows: { read: \"in/*.csv\" }\n  publish: { from: rows, write: out.csv }\n")


def native_chain(size: int) -> Iterator[str]:
    yield "  s0: { read: in.csv }\n"
    for number in range(1, size - 1):
        before = number - 1
        yield f'  s{number}: {{ from: s{before}, sql: "SELECT id, name, value + 1 AS value FROM s{before}" }}\n'
    yield f"  publish: {{ from: s{size - 2}, write: out.csv }}\n"


def pairs(size: int) -> Iterator[str]:
    for number in range(size // 2):
        yield f"  s{number}: {{ read: in.csv }}\n  w{number}: {{ from: s{number}, write: out/{number}.csv }}\n"


def commands(size: int) -> Iterator[str]:
    """In layers of a tenth of them all, at most 100; each comes after three of the layer before it."""
    width = min(size // 10, 100)
    for number in range(size):
        first = (number // width - 1) * width
        awaited = sorted({first + number * step % width for step in (1, 7, 31)})
        after = f", after: [{', '.join(f't{one}' for one in awaited)}]" if first >= 0 else ""
        yield f'  t{number}: {{ command: ["true"]{after} }}\n'


def stages(shape: Callable[[int], Iterator[str]], command: str) -> Callable[[Path, int], list[str]]:
    def prepare(folder: Path, size: int) -> list[str]:
        write_rows(folder / "in.csv", 10)
        return [command, *pipeline(folder, "".join(shape(size)))[1:]]

    return prepare


def pipeline(folder: Path, text: str) -> list[str]:
    (folder / "pipeline.yaml").write_text(HEAD + text)
    return ["run", "pipeline.yaml"]


def write_rows(path: Path, size: int) -> None:
    lines = (f"{number},name {number % 1000},{number % 977}.5\n" for number in range(size))
    with open(path, "w") as file:
        file.write("id,name,value\n")
        while block := list(islice(lines, 100_000)):
            file.writelines(block)


TENFOLD = [10, 100, 1_000, 10_000]
MANY_ROWS = [100_000, 1_000_000, 10_000_000]

SERIES = [
    Series("rows", MANY_ROWS, rows),
    Series("groups", MANY_ROWS, groups),
    Series("python", [10_000, 100_000, 1_000_000], python_rows, needs_python=True),
    Series("workers", [1, 2, 4, 8], workers, work=lambda size: ROWS_OF_WORKERS, needs_python=True),
    Series("files", TENFOLD, files),
    Series("native-validate", TENFOLD, stages(native_chain, "validate")),
    Series("native-plan", TENFOLD, stages(native_chain, "plan")),
    Series("native-run", TENFOLD, stages(native_chain, "run")),
    Series("pairs-run", TENFOLD, stages(pairs, "run")),
    Series("commands-validate", TENFOLD, stages(commands, "validate")),
    Series("commands-plan", TENFOLD, stages(commands, "plan")),
    Series("commands-run", TENFOLD, stages(commands, "run")),
]


def show(program: Program, series: Series, sizes: list[int], parent: Path | None, table: Table) -> None:
    before: tuple[int, Cost] | None = None
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="millpond-growth-", dir=parent) as name:
            folder = Path(name)
            arguments = series.prepare(folder, size)
            if series.needs_python:
                program.prepare(folder, "env", "build", "pipeline.yaml")
            cost = program.cost(folder, *arguments)
        things = series.work(size)
        more = ""
        if before is not None and things > before[0]:
            more = f"{(cost.cpu - before[1].cpu) / (things - before[0]) * 1e6:,.2f}"
        table.row(
            series.name,
            f"{size:,}",
            f"{cost.wall:.2f}",
            f"{cost.cpu:.2f}",
            f"{cost.peak / 1e6:.0f}",
            f"{cost.cpu / things * 1e6:,.2f}",
            more,
        )
        before = (things, cost)


def main() -> None:
    parser = measure.options(__doc__)
    parser.add_argument("series", nargs="*", help=f"of {', '.join(series.name for series in SERIES)}; default: all")
    parser.add_argument("--largest", type=int, help="only sizes up to this one")
    options = parser.parse_args()
    unknown = set(options.series) - {series.name for series in SERIES}
    if unknown:
        parser.error(f"there is no series {', '.join(sorted(unknown))}")
    program = measure.program(options)
    table = Table("series", "how many", "wall s", "CPU s", "peak MB", "each, µs", "each more, µs")
    for series in SERIES:
        if not options.series or series.name in options.series:
            sizes = [size for size in series.sizes if size <= (options.largest or size)]
            show(program, series, sizes, options.folder, table)


if __name__ == "__main__":
    main()
