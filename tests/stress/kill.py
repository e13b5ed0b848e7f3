"""Batches that take long enough for a worker to be killed in the middle of one."""

import time


def numbers(batches: int, rows: int):
    for number in range(batches * rows):
        yield {"id": number, "batch": number // rows}


def work(rows: list, seconds: float) -> list:
    time.sleep(seconds)
    return [{**row, "square": row["id"] ** 2} for row in rows]
