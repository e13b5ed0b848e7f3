"""A list in shared memory that all processes look up."""

from multiprocessing import Pool
from multiprocessing.shared_memory import ShareableList

from rows import DATA, read, write


def attach(name):
    global stop_words
    stop_words = ShareableList(name=name)


def keep(row):
    return {"id": row["id"], "kept": [word for word in row["text"].split() if word not in stop_words]}


if __name__ == "__main__":
    words = ShareableList((DATA / "stop_words.txt").read_text(encoding="utf-8").split())
    try:
        with Pool(initializer=attach, initargs=(words.shm.name,)) as pool:
            write("kept.jsonl", pool.imap(keep, read("texts.jsonl")))
    finally:
        words.shm.close()
        words.shm.unlink()
