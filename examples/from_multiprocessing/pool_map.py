"""Pool.map."""

from multiprocessing import Pool

from rows import read, write
from work import count

if __name__ == "__main__":
    with Pool() as pool:
        write("counted.jsonl", pool.map(count, read("texts.jsonl")))
