"""How a process becomes a worker: a child that the template has forked, or an interpreter of its own.

The latter is for libraries that do not survive a fork: nothing that the template has imported is in it, and it has the
same parent. It is started as `python -m millpond.worker_start FD`, where FD has what is to be known.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import importlib
import importlib.util
import json
import os
import socket
import sys
from typing import Any, NoReturn

from millpond import process, stacks, terminal
from millpond.frame import Channel


@dataclasses.dataclass
class WorkerStart:
    """What a worker begins with, beside its standard input, output and error."""

    worker: int
    # Descriptors: its socket, and where it shows its stacks.
    connection: int
    shown: list[int]
    # Of its `FORK`.
    text: dict[str, Any]

    def confine(self) -> None:
        """Has this process run where it may, before it has any other threads."""
        if self.text.get("cpus"):
            os.sched_setaffinity(0, self.text["cpus"])

    def run(self) -> NoReturn:
        """The life of the worker."""
        process.set_name(f"millpond-{self.worker}")
        enter(self.text)
        os.nice(self.text.get("nice", 0))
        sys.argv = ["millpond-worker"]
        is_in_foreground = bool(self.text.get("terminal"))
        if is_in_foreground:
            terminal.give()
        else:
            terminal.take_away()
        faulthandler.enable(file=2)
        for fd in self.shown:
            stacks.show_in(fd)

        from millpond import context, printed, worker_process

        if not is_in_foreground:
            printed.take_over()
        context.worker.start(self.worker, self.text.get("devices") or {})
        worker_process.run(Channel(socket.socket(fileno=self.connection)), is_in_foreground)

    def execute(self) -> NoReturn:
        """Becomes an interpreter of its own, which runs this."""
        # In memory, as others may read the arguments of a process.
        fd = os.memfd_create("millpond-start", 0)
        os.write(fd, json.dumps(dataclasses.asdict(self)).encode())
        for kept in (self.connection, *self.shown):
            os.set_inheritable(kept, True)
        os.chdir("/")  # Not where others may have put modules.
        # What finds this package stays, until it is found.
        path = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "PYTHONSAFEPATH": "1"}
        env = {**os.environ, **(self.text.get("env") or {}), **path}
        os.execve(sys.executable, [sys.executable, "-m", "millpond.worker_start", str(fd)], env)


def enter(text: dict[str, Any]) -> None:
    """Sets the environment variables and the working directory of a frame."""
    os.environ.update(text.get("env") or {})
    if text.get("cwd"):
        os.chdir(text["cwd"])


def preload(module: str) -> None:
    """Imports `module` if it is installed."""
    try:
        if importlib.util.find_spec(module) is None:
            return
    except ModuleNotFoundError:  # A parent package is missing.
        return
    importlib.import_module(module)


def preload_codecs() -> None:
    """Imports the codecs whose libraries are here already."""
    for library, module in (("pyarrow", "dicts"), ("pyarrow", "arrow"), ("numpy", "arrays"), ("pandas", "dataframe")):
        if library in sys.modules:
            importlib.import_module(f"millpond.codecs.{module}")
    if "pyarrow" in sys.modules:
        # Arrow looks for pandas when it first converts anything, and so would every worker, for a third of a second.
        importlib.import_module("pyarrow").array([])


def main() -> NoReturn:
    process.forget_folder()

    def run() -> None:
        with open(int(sys.argv[1]), encoding="utf-8") as told:
            told.seek(0)
            start = WorkerStart(**json.load(told))
        for fd in (start.connection, *start.shown):
            os.set_inheritable(fd, False)
        sys.path[:0] = start.text.get("path") or []
        enter(start.text)
        # Random numbers are seeded for the first attempt only in what is here by then.
        for module in start.text["preload"]:
            preload(module)
        start.run()

    process.end_with(run)


if __name__ == "__main__":
    main()
