"""The functions of `w3.yaml`, the same for every tool that it is compared with."""

import numpy as np

COUNT, SIZE = 200, 4_000_000


def make(i):
    return np.full(SIZE, float(i))


def add_copy(a):
    return a + 1.0


def total(a):
    return float(a.sum())


def make_all():
    for i in range(COUNT):
        yield {"a": make(i)}


def add_one(batch):
    return {"a": add_copy(batch["a"])}


def total_of(batch):
    return {"line": np.array([str(total(batch["a"]))], dtype=object)}
