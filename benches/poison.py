#!/usr/bin/env python3
"""What rows cost that fail: a run of a million rows in which a hundred raise, beside the same run without them.

    cargo build --release
    benches/poison.py

Prints a table in Markdown.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import measure
from measure import Table

ROWS = 1_000_000
POISON = 100

PIPELINE = """\
version: 1
name: poison
stages:
  rows: { read: in.csv }
  worked: { from: rows, python: { call: work:work, as: CONVENTION }, on_error: reject }
  publish: { from: worked, write: out.csv }
  rejects: { from: worked.rejected, write: rejects.jsonl }
"""

MODULES = {
    "row": "def work(row):\n    if row['poison']:\n        raise ValueError('poison')\n    return row\n",
    "arrow": (
        "import pyarrow.compute as pc\n\n"
        "def work(batch):\n"
        "    if pc.any(batch['poison']).as_py():\n"
        "        raise ValueError('poison')\n"
        "    return batch.set_column(0, 'id', pc.add(batch['id'], 1))\n"
    ),
}


def main() -> None:
    options = measure.options(__doc__).parse_args()
    program = measure.program(options)
    table = Table("function", "rows that raise", "wall", "CPU", "with ÷ without, wall")
    bad = set(random.Random(1).sample(range(ROWS), POISON))
    for convention, module in MODULES.items():
        with tempfile.TemporaryDirectory(prefix="millpond-poison-", dir=options.folder) as name:
            folder = Path(name)
            (folder / "work.py").write_text(module)
            (folder / "pipeline.yaml").write_text(PIPELINE.replace("CONVENTION", convention))
            program.prepare(folder, "env", "build", "pipeline.yaml")
            without = 0.0
            for poison in (set(), bad):
                lines = (f"{row},{str(row in poison).lower()}\n" for row in range(ROWS))
                (folder / "in.csv").write_text("id,poison\n" + "".join(lines))
                cost = program.cost(folder, "run", "pipeline.yaml")
                ratio = f"{cost.wall / without:.2f}" if poison else ""
                without = cost.wall
                table.row(f"`as: {convention}`", str(len(poison)), f"{cost.wall:.2f} s", f"{cost.cpu:.1f} s", ratio)


if __name__ == "__main__":
    main()
