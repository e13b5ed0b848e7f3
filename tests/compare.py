"""Compares the files of an `expected` folder with those that a run wrote.

    python compare.py EXPECTED OUT

CSV, TSV and text byte by byte, JSON lines by value, Parquet by columns and rows (needs pyarrow), .gz after unpacking. Files that
are only in OUT are not looked at. Exit code 1 and a line per difference if any differ.
"""

import gzip
import json
import sys
from pathlib import Path


def main():
    expected, out = map(Path, sys.argv[1:3])
    files = sorted(file for file in expected.iterdir() if file.is_file())
    if not files:
        sys.exit(f"{expected}: no files to compare with")
    problems = [problem for file in files for problem in differences(file, out / file.name)]
    print(*problems, sep="\n", end="\n" if problems else "")
    return 1 if problems else 0


def differences(expected, actual):
    if not actual.exists():
        return [f"{actual}: not there"]
    wanted, got = rows(expected), rows(actual)
    problems = [
        f"{actual}: row {number}: {b!r}, expected {a!r}" for number, (a, b) in enumerate(zip(wanted, got), 1) if a != b
    ]
    if len(wanted) != len(got):
        problems.append(f"{actual}: {len(got)} rows, expected {len(wanted)}")
    return problems


def rows(path):
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path)
        return [table.column_names, *(list(row.values()) for row in table.to_pylist())]
    data = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    lines = data.splitlines(keepends=True)
    return [json.loads(line) for line in lines] if name.endswith(".jsonl") else lines


if __name__ == "__main__":
    sys.exit(main())
