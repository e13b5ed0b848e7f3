"""A source that can make far more than fits into memory, and a stage that is slower than it."""

import random
import time

import pyarrow as pa
import pyarrow.compute as pc

PAYLOAD_BYTES = 64 << 10
# Cut at different places, one random text gives payloads that differ and cost next to nothing to make.
TEXT = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=2 * PAYLOAD_BYTES))


def payloads(gigabytes: float):
    for number in range(int(gigabytes * 2**30) // PAYLOAD_BYTES):
        start = number * 7919 % PAYLOAD_BYTES
        yield {"id": number, "payload": TEXT[start : start + PAYLOAD_BYTES]}


def measure(rows: list, seconds: float) -> list:
    time.sleep(seconds)
    return [{"id": row["id"], "bytes": len(row["payload"])} for row in rows]


def with_length(batch: pa.RecordBatch, column: str) -> pa.RecordBatch:
    return batch.append_column(column, pc.binary_length(batch["payload"]))
