"""An event: processes that go on once one of them has prepared something."""

from multiprocessing import Event, Pool

from rows import read, write
from work import fetch


def prepare(event):
    global opened
    opened = event


def fetch_when_open(row):
    if row["id"] == 1:
        opened.set()
    opened.wait()
    return fetch(row)


if __name__ == "__main__":
    with Pool(2, prepare, (Event(),)) as pool:
        write("fetched.jsonl", pool.map(fetch_when_open, read("texts.jsonl"), chunksize=1))
