"""A semaphore: four processes, of which two at a time may use a connection."""

from multiprocessing import Pool, Semaphore

from rows import read, write
from work import fetch


def prepare(semaphore):
    global connections
    connections = semaphore


def fetch_politely(row):
    with connections:
        return fetch(row)


if __name__ == "__main__":
    with Pool(4, prepare, (Semaphore(2),)) as pool:
        write("fetched.jsonl", pool.map(fetch_politely, read("texts.jsonl"), chunksize=1))
