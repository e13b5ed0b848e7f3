"""millpond, as seen from a Python stage.

`params` are the params of the run, `log` is a logger to the stage's log, and `millpond.batch_id` names the batch at
hand: `stage/sequence`, the same for every attempt, so that it can serve as an idempotency key.
"""

from __future__ import annotations

from typing import Any

from . import context
from .context import log, params
from .errors import MillpondError, NoTerminalError, SchemaError

__all__ = ["MillpondError", "NoTerminalError", "SchemaError", "batch_id", "log", "params"]

__version__ = "0.1.0"

batch_id: str


def __getattr__(name: str) -> Any:
    if name == "batch_id":
        return context.batch_id()
    raise AttributeError(f"module `millpond` has no `{name}`; it has {', '.join(f'`{known}`' for known in __all__)}")
