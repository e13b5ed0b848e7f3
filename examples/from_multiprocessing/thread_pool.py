"""A pool of threads for calls that wait."""

from multiprocessing.pool import ThreadPool

from rows import read, write
from work import fetch

if __name__ == "__main__":
    with ThreadPool(8) as pool:
        write("fetched.jsonl", pool.imap(fetch, read("texts.jsonl")))
