"""What workers share: state, locks, and what they look up."""

from collections.abc import Iterator

import millpond

from work import fetch


def add(row: dict) -> None:
    """Counts words, by language, over all workers."""
    millpond.state.map("words").add(row["language"], len(row["text"].split()))


def totals() -> Iterator[dict]:
    """A source, for after all have been counted."""
    for language, words in sorted(millpond.state.map("words").to_dict().items()):
        yield {"language": language, "words": words}


def fetch_alone(row: dict) -> dict:
    with millpond.lock("line"):
        return fetch(row)


def fetch_when_open(row: dict) -> dict:
    opened = millpond.event("open")
    if row["id"] == 1:
        opened.set()
    opened.wait()
    return fetch(row)


def fetch_in_pairs(row: dict) -> dict:
    millpond.barrier("pair", 2).wait()
    return fetch(row)


def count_text(row: dict) -> None:
    millpond.counter("texts").add()


def counted() -> Iterator[dict]:
    """A source, for after all have been counted."""
    yield {"texts": millpond.counter("texts").value}


def load_stop_words(path: str) -> set[str]:
    with open(path, encoding="utf-8") as file:
        return set(file.read().split())


def keep(row: dict) -> dict:
    stop_words = millpond.shared["stop_words"]
    return {"id": row["id"], "kept": [word for word in row["text"].split() if word not in stop_words]}
