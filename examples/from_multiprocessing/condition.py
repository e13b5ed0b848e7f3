"""A condition: a process that goes on once others have come so far."""

from multiprocessing import Condition, Process, Value

from rows import read, write


def add(rows, texts, has_changed):
    for _ in rows:
        with has_changed:
            texts.value += 1
            has_changed.notify_all()


def tell(number, texts, has_changed):
    with has_changed:
        has_changed.wait_for(lambda: texts.value == number)
        write("counted.jsonl", [{"texts": texts.value}])


if __name__ == "__main__":
    rows = list(read("texts.jsonl"))
    shared = (Value("i", 0, lock=False), Condition())
    processes = [Process(target=tell, args=(len(rows), *shared))]
    processes += [Process(target=add, args=(rows[first::2], *shared)) for first in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
