"""What the processes of millpond ask of Linux: names, parent-death signals, threads, descriptors."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

# The status of a process that user code forked and that came back from it.
EXIT_FORKED = 71

# The status of a worker that could not be started, or came back from its work: an error of millpond.
EXIT_BROKEN = 70

# The signal at which a worker shows what all its threads are doing. `executor/worker_clock.rs` has the same number.
SHOW_STACKS = 62

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

# Fork-safe: jemalloc stops and restarts it around a fork.
_HARMLESS_THREADS = ("jemalloc_bg_thd",)

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: object) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def set_name(name: str) -> None:
    """Names the process as `ps` and `top` show it: the first 15 bytes count."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]))


def become_subreaper() -> None:
    """Makes orphaned descendants children of this process, so that it can wait for them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when process `parent` dies, also if it has died already."""
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


def extra_threads() -> list[str]:
    """Names of the threads besides the calling one that would be lost in a fork."""
    main = str(os.getpid())
    names = []
    for thread in os.listdir("/proc/self/task"):
        if thread == main:
            continue
        try:
            with open(f"/proc/self/task/{thread}/comm") as comm:
                name = comm.read().strip()
        except OSError:  # It ended in the meantime.
            continue
        if name not in _HARMLESS_THREADS:
            names.append(name)
    return names


def close_fds_except(keep: set[int]) -> None:
    """Closes every descriptor that is not in `keep`."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:  # The descriptor of the listing itself.
                continue


def reset_signals() -> None:
    """Gives a forked worker the handlers of a new interpreter. SIGINT stays ignored: it is for the coordinator."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_DFL, None):
                signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def forget_folder() -> None:
    """Takes back what `-m` has put on `sys.path`: where to import from is for the coordinator to say."""
    if not os.environ.pop("PYTHONSAFEPATH", "") and sys.path[:1] == [os.getcwd()]:
        del sys.path[0]


def end_copy() -> NoReturn:
    """Ends this process, a copy of a worker that user code forked and that came back from it. A copy has the worker's
    socket and its shared memory: it would answer a second time, and write over what the worker gives."""
    print("a process that this stage's code forked came back from the code; it ends here", file=sys.stderr)
    os._exit(EXIT_FORKED)


def end_with(run: Callable[[], None]) -> NoReturn:
    """Calls `run`, which ends the process itself, and ends it as one that has broken if that comes back or raises."""
    try:
        run()
    except BaseException:
        import traceback

        traceback.print_exc()
        flush_stdio()
    finally:
        os._exit(EXIT_BROKEN)


def flush_stdio() -> None:
    """Writes out what is buffered; a reader that is gone is no error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # Closed, broken or replaced by user code.
            continue
