"""Tells people apart by the century that they were born in."""


def tell_apart(row: dict) -> dict:
    return {"early" if row["born"] < 1900 else "late": row}
