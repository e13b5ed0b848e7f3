"""Two processes in a row, with queues between them."""

from multiprocessing import Process, Queue

from rows import read, write
from work import clean, count


def stage(function, inbox, outbox):
    for row in iter(inbox.get, None):
        outbox.put(function(row))
    outbox.put(None)


if __name__ == "__main__":
    texts, cleaned, counted = Queue(), Queue(), Queue()
    Process(target=stage, args=(clean, texts, cleaned)).start()
    Process(target=stage, args=(count, cleaned, counted)).start()
    for row in read("texts.jsonl"):
        texts.put(row)
    texts.put(None)
    write("counted.jsonl", iter(counted.get, None))
