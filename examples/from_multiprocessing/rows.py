"""Reads and writes files of rows, one JSON object per line, for the programs in this folder."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

DATA = Path(__file__).parent / "data"


def read(name: str) -> Iterator[dict]:
    with open(DATA / name, encoding="utf-8") as file:
        yield from map(json.loads, file)


def write(name: str, rows: Iterable[dict]) -> None:
    Path("out").mkdir(exist_ok=True)
    with open(Path("out") / name, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
