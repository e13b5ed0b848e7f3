"""Puts the events of a website together into visits, one user at a time."""


class Sessions:
    """Called with the events of all users of one partition, each user's in the order of the file."""

    def __init__(self, gap: int):
        self.gap = gap
        self.open: dict[str, dict] = {}

    def __call__(self, event: dict) -> dict | None:
        """Takes one event; gives the user's last visit if this event begins another one."""
        visit = self.open.get(event["user"])
        if visit is not None and event["second"] - visit["last"] <= self.gap:
            visit["last"] = event["second"]
            visit["pages"] += 1
            return None
        self.open[event["user"]] = {
            "user": event["user"],
            "first": event["second"],
            "last": event["second"],
            "pages": 1,
        }
        return visit

    def finish(self) -> list[dict]:
        """The visits that no later event has ended."""
        return list(self.open.values())
