"""Pool.imap_unordered, and rows that fail."""

from multiprocessing import Pool

from rows import read, write
from work import mean_length


def attempt(row):
    try:
        return mean_length(row), None
    except Exception as error:
        return None, {"id": row["id"], "why": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    with Pool() as pool:
        results = list(pool.imap_unordered(attempt, read("texts.jsonl")))
    means = [mean for mean, failure in results if failure is None]
    write("means.jsonl", sorted(means, key=lambda mean: mean["id"]))
    write("failures.jsonl", [failure for _, failure in results if failure is not None])
