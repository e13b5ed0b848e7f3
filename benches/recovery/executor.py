"""`ProcessPoolExecutor`, made anew when a worker has died: what is written by hand where a killed worker must not end the program."""

import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from work import die_once


def main(items: int, workers: int) -> None:
    left = set(range(items))
    while left:
        with ProcessPoolExecutor(workers) as pool:
            futures = {pool.submit(die_once, item): item for item in sorted(left)}
            try:
                for future in as_completed(futures):
                    left.discard(future.result())
            except BrokenProcessPool:
                pass  # All that has no result is done again, by new workers.


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
