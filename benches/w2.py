"""The function of `w2.yaml`, the same for every tool that it is compared with."""

import hashlib
import re

WORD = re.compile(r"[a-z]+")


def work(rec):
    words = WORD.findall(rec["text"].lower())
    counts = {}
    for w in words:
        counts[w] = counts.get(w, 0) + 1
    top = max(counts, key=counts.get)
    digest = hashlib.blake2b(" ".join(words).encode(), digest_size=8).hexdigest()
    return {"id": rec["id"], "words": len(words), "unique": len(counts), "top": top, "hash": digest}
