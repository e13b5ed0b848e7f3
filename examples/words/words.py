"""Splits lines into words."""

import re


def split(row: dict, shortest: int = 1):
    """Gives a row per word. Called once per row: a dict comes in, any number of dicts go out."""
    for word in re.findall(r"[a-z']+", row["line"].lower()):
        if len(word) >= shortest:
            yield {"word": word}
