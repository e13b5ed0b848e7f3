#!/usr/bin/env python3
"""How long a batch waits for its next attempt when its worker is killed, with millpond and with other pools. The workers have pandas imported.

    cargo build --release
    benches/recovery/recovery.py --python PYTHON

PYTHON is an interpreter that has pandas, and ray if Ray Data is to be measured too (`--ray`). Prints a table in Markdown.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import measure  # noqa: E402
from measure import Program, Table  # noqa: E402

KILLS = 20
# Ray Data takes its time.
FEW_KILLS = 3

PIPELINE = """\
version: 1
name: recovery
python: { requirements: [pandas] }
stages:
  items: { read: in.txt }
  survived: { from: items, python: { call: work:of_batch, as: arrow }, batch: { rows: 1 } }
  publish: { from: survived, write: out.txt }
"""


def with_millpond(program: Program, folder: Path, workers: int) -> None:
    (folder / "in.txt").write_text("".join(f"{number}\n" for number in range(KILLS)))
    (folder / "pipeline.yaml").write_text(PIPELINE)
    shutil.copy(HERE / "work.py", folder)
    program.prepare(folder, "env", "build", "pipeline.yaml")
    program.prepare(folder, "run", "pipeline.yaml", "--workers", str(workers))


def with_python(python: Path, script: str, kills: int) -> Callable[[Path, int], None]:
    def run(folder: Path, workers: int) -> None:
        measure.run([python, HERE / script, str(kills), str(workers)], folder)

    return run


def gaps(run: Callable[[Path, int], None], workers: int, parent: Path | None) -> list[float]:
    """Seconds from each death to the next attempt at the same item."""
    with tempfile.TemporaryDirectory(prefix="millpond-recovery-", dir=parent) as name:
        folder = Path(name)
        run(folder, workers)
        times = [sorted(map(float, notes.read_text().split())) for notes in folder.glob("times-*")]
    if len(times) not in (KILLS, FEW_KILLS):
        raise measure.Failed(f"{len(times)} items were called")
    return [again[1] - again[0] for again in times]


def main() -> None:
    parser = measure.options(__doc__)
    parser.add_argument("--ray", action="store_true", help="measure Ray Data too, which takes minutes")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="an interpreter with pandas, and perhaps ray")
    options = parser.parse_args()
    program = measure.program(options)
    contenders = {"millpond": lambda folder, workers: with_millpond(program, folder, workers)}
    contenders["`ProcessPoolExecutor`, made anew"] = with_python(options.python, "executor.py", KILLS)
    if options.ray:
        contenders["Ray Data"] = with_python(options.python, "ray_data.py", FEW_KILLS)
    table = Table("from the death of a worker to the next attempt", "workers", "median", "most")
    for workers in (1, 2):
        for name, run in contenders.items():
            waited = gaps(run, workers, options.folder)
            table.row(name, str(workers), f"{statistics.median(waited) * 1e3:,.1f} ms", f"{max(waited) * 1e3:,.1f} ms")


if __name__ == "__main__":
    main()
