"""A dictionary of a manager, and a lock around it."""

from multiprocessing import Manager, Pool

from rows import read, write


def add(row, totals, lock):
    language = row["language"]
    with lock:
        totals[language] = totals.get(language, 0) + len(row["text"].split())


if __name__ == "__main__":
    with Manager() as manager, Pool() as pool:
        totals, lock = manager.dict(), manager.Lock()
        pool.starmap(add, [(row, totals, lock) for row in read("texts.jsonl")])
        write("totals.jsonl", [{"language": name, "words": words} for name, words in sorted(totals.items())])
