"""concurrent.futures.ProcessPoolExecutor."""

from concurrent.futures import ProcessPoolExecutor

from rows import read, write
from work import count

if __name__ == "__main__":
    with ProcessPoolExecutor() as executor:
        write("counted.jsonl", executor.map(count, read("texts.jsonl"), chunksize=4))
