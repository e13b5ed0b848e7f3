"""A lock around what only one process may use at a time."""

from multiprocessing import Lock, Pool

from rows import read, write
from work import fetch


def prepare(lock):
    global line
    line = lock


def fetch_alone(row):
    with line:
        return fetch(row)


if __name__ == "__main__":
    with Pool(4, prepare, (Lock(),)) as pool:
        write("fetched.jsonl", pool.map(fetch_alone, read("texts.jsonl"), chunksize=1))
