"""millpond, as seen from a Python stage.

`params` are the params of the run, `log` is a logger to the stage's log, and `millpond.batch_id` names the batch at
hand: `stage/sequence`, the same for every attempt, so that it can serve as an idempotency key. `worker` is the process
that runs the code, and tells which attempt it runs.

`lock`, `semaphore`, `event` and `barrier` are shared by all workers of the run, by name, and so are `counter` and what
`state` has. `reject` says that a row is wrong. `shared` has what the pipeline makes once for all of them.
"""

from __future__ import annotations

from typing import Any

from . import context
from .context import log, params, worker
from .errors import MillpondError, NoTerminalError, Rejected, SchemaError, Throttled
from .rejecting import reject
from .run_state import counter, state
from .shared import shared
from .sync import DeadlockError, barrier, event, lock, semaphore

__all__ = [
    "DeadlockError",
    "MillpondError",
    "NoTerminalError",
    "Rejected",
    "SchemaError",
    "Throttled",
    "barrier",
    "batch_id",
    "counter",
    "event",
    "lock",
    "log",
    "params",
    "reject",
    "semaphore",
    "shared",
    "state",
    "worker",
]

__version__ = "0.1.0"

batch_id: str


def __getattr__(name: str) -> Any:
    if name == "batch_id":
        return context.batch_id()
    raise AttributeError(f"module `millpond` has no `{name}`; it has {', '.join(f'`{known}`' for known in __all__)}")
