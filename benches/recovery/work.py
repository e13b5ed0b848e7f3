"""The function whose worker is killed, the same for every tool: it notes when it is called, and kills its process in the first call for each item.

The folder for the notes is the current one.
"""

import os
import signal
import time

import pandas  # noqa: F401  What a worker of a real pipeline has imported, and its successor needs again.


def die_once(item):
    path = f"times-{item}"
    is_first = not os.path.exists(path)
    with open(path, "a") as times:
        print(time.monotonic(), file=times)
    if is_first:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def of_batch(batch):
    die_once(batch[0][0])
    return batch
