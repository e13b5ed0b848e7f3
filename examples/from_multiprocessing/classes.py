"""Classes in the place of an initialiser and of a shared dictionary."""


class Keep:
    """Built once in each worker, then called for every row."""

    def __init__(self, stop_words: str):
        with open(stop_words, encoding="utf-8") as file:
            self.stop_words = set(file.read().split())

    def __call__(self, row: dict) -> dict:
        return {"id": row["id"], "kept": [word for word in row["text"].split() if word not in self.stop_words]}


class Totals:
    """With `partition_by: language`, all rows of a language meet one instance."""

    def __init__(self):
        self.words = {}

    def __call__(self, row: dict) -> None:
        language = row["language"]
        self.words[language] = self.words.get(language, 0) + len(row["text"].split())

    def finish(self) -> list[dict]:
        return [{"language": language, "words": words} for language, words in self.words.items()]
