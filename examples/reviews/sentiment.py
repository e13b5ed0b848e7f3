"""Scores reviews with a list of words."""

import json
import re


class Scorer:
    """Built once per worker, so that what is dear to load is loaded once, and then called for every row."""

    def __init__(self, lexicon: str):
        with open(lexicon, encoding="utf-8") as file:
            self.weights = json.load(file)

    def __call__(self, row: dict) -> dict:
        words = re.findall(r"[a-z]+", row["text"].lower())
        if not words:
            raise ValueError("a review without words cannot be scored")
        score = sum(self.weights.get(word, 0) for word in words)
        return {"id": row["id"], "product": row["product"], "words": len(words), "score": score}
