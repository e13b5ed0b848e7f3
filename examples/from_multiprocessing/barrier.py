"""A barrier: two processes that go on together."""

from multiprocessing import Barrier, Pool

from rows import read, write
from work import fetch


def prepare(barrier):
    global pair
    pair = barrier


def fetch_in_pairs(row):
    pair.wait()
    return fetch(row)


if __name__ == "__main__":
    with Pool(2, prepare, (Barrier(2),)) as pool:
        write("fetched.jsonl", pool.map(fetch_in_pairs, read("texts.jsonl"), chunksize=1))
