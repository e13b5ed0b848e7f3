"""For unit tests of functions that use millpond, which run outside a run."""

from __future__ import annotations

from .errors import MillpondError
from .line import line
from .local import local
from .run_state import state
from .shared import shared


def reset() -> None:
    """Forgets what code has done outside a run, for the next test: what counters and `state` have, what is held, set or
    waited for, and what `shared.provide` has given. Counters, locks and the like that are there already stay usable."""
    if line() is not None:
        raise MillpondError("`millpond.testing` is for unit tests, and this is a run")
    state.reset()
    local.reset()
    shared.reset()
