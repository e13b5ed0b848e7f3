"""Pool with an initialiser, which leaves what is dear to load in a global variable."""

from multiprocessing import Pool

from rows import DATA, read, write


def load(path):
    global stop_words
    with open(path, encoding="utf-8") as file:
        stop_words = set(file.read().split())


def keep(row):
    return {"id": row["id"], "kept": [word for word in row["text"].split() if word not in stop_words]}


if __name__ == "__main__":
    with Pool(initializer=load, initargs=(DATA / "stop_words.txt",)) as pool:
        write("kept.jsonl", pool.imap(keep, read("texts.jsonl")))
