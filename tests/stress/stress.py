"""Stages that give other results in other runs unless the engine takes care: order, seeds, hashes, types."""

import random
import time

WORDS = ["pond", "mill", "wheel", "race", "sluice", "stone", "grain", "flour"]
ROWS_WITHOUT_VALUE = 5000


def records(count: int):
    """The column `value` is null in the first rows, so that its type is not known from the first batch."""
    for number in range(count):
        yield {
            "id": number,
            "words": " ".join(WORDS[(number * step) % len(WORDS)] for step in (1, 3, 5)),
            "value": None if number < ROWS_WITHOUT_VALUE else number / 8,
        }


def delay(rows: list, seconds: float) -> list:
    """The batch with the first row comes long after those that follow it."""
    if rows and rows[0]["id"] == 0:
        time.sleep(seconds)
    return rows


def pick(row: dict) -> dict:
    """Depends on the order of a set of strings, which depends on the seed of the process's hashes."""
    row["word"] = list(set(row["words"].split()))[0]
    return row


def draw(rows: list) -> list:
    """Depends on the state of the process's random generator."""
    for row in rows:
        row["draw"] = random.random()
        row["half"] = None if row["id"] < ROWS_WITHOUT_VALUE else row["id"] // 2
    return rows
