#!/usr/bin/env python3
"""Prints what `cargo bench` has measured last as a table in Markdown.

    cargo bench
    benches/parts.py                        from the build folder, or from the folder that is named
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from measure import REPOSITORY, Table

UNITS = [(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1, "ns")]


def main() -> None:
    built = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else built / "criterion"
    parts = sorted(folder.glob("**/new/benchmark.json"), key=lambda part: part.stat().st_mtime)
    if not parts:
        sys.exit(f"nothing is in {folder}: run `cargo bench`")
    table = Table("part", "median", "rate")
    for part in parts:
        about = json.loads(part.read_text())
        nanoseconds = json.loads(part.with_name("estimates.json").read_text())["median"]["point_estimate"]
        table.row(about["full_id"], time(nanoseconds), rate(about["throughput"], nanoseconds))


def time(nanoseconds: float) -> str:
    size, unit = next((size, unit) for size, unit in UNITS if nanoseconds >= size or size == 1)
    return f"{nanoseconds / size:.3g} {unit}"


def rate(throughput: dict[str, int], nanoseconds: float) -> str:
    ((kind, amount),) = throughput.items()
    per_second = amount / nanoseconds * 1e9
    return f"{per_second / 1e9:.3g} GB/s" if kind == "Bytes" else f"{per_second:,.0f} /s"


if __name__ == "__main__":
    main()
