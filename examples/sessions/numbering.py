"""Numbers the rows of a stream."""

from collections.abc import Iterator

import pyarrow as pa


def numbered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    count = 0
    for batch in batches:
        numbers = pa.array(range(count, count + batch.num_rows), pa.int64())
        count += batch.num_rows
        yield batch.append_column("number", numbers)
