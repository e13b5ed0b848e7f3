"""Pool.apply_async, and rows that hang."""

from multiprocessing import Pool, TimeoutError

from rows import read, write
from work import patient

if __name__ == "__main__":
    counted, late = [], []
    with Pool(2) as pool:
        results = [(row["id"], pool.apply_async(patient, (row,))) for row in read("texts.jsonl")]
        for number, result in results:
            try:
                counted.append(result.get(timeout=2))
            except TimeoutError:
                late.append({"id": number})
    write("counted.jsonl", counted)
    write("late.jsonl", late)
