"""The work itself: pipelines call it, and so do the programs in this folder."""

import time


def clean(row: dict) -> dict:
    return {**row, "text": row["text"].lower()}


def count(row: dict) -> dict:
    return {"id": row["id"], "language": row["language"], "words": len(row["text"].split())}


def mean_length(row: dict) -> dict:
    words = row["text"].split()
    return {"id": row["id"], "mean": sum(map(len, words)) / len(words)}


def patient(row: dict) -> dict:
    """Stands for code that hangs on some rows."""
    if not row["text"]:
        time.sleep(3600)
    return count(row)


def fetch(row: dict) -> dict:
    """Stands for a call of a service, and waits as long as one."""
    time.sleep(0.05)
    return count(row)
