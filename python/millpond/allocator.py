"""The library that puts large numpy arrays into segments, `python/allocator.c`, seen from Python.

It is a help and not needed: where it cannot be loaded (a system that runs no code from the cache, a Python for another
C library), arrays are copied into segments when they are returned.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# Numbers of `PyDataMem_SetHandler` and `PyDataMem_GetHandler` in numpy's table of functions, and the first version that
# has them.
_FIRST_VERSION = (1, 22)
_SET_HANDLER = 304
_GET_HANDLER = 305
_HANDLER_NAME = b"mem_handler"


class Block(NamedTuple):
    """Shared memory that one array has. `fd` stays the library's."""

    address: int
    size: int
    fd: int


class Allocator:
    """Has numpy put arrays of 1 MiB and more into blocks, unless `paused`; `allocator.c` has the life of a block."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._handler: object = None
        # Bytes of live and of free blocks, as the library notes them.
        self._ledger = (ctypes.c_uint64 * 2)()
        library.millpond_start.restype = ctypes.c_void_p
        library.millpond_start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        library.millpond_pin.argtypes = [ctypes.c_size_t, ctypes.c_size_t]

    def watch_numpy(self) -> int | None:
        """Has numpy use the library, if numpy is here by now and does not yet. Then returns a descriptor of the page in
        which the library notes how many bytes of blocks arrays have."""
        numpy = sys.modules.get("numpy")
        if self._handler is not None or _version(numpy) < _FIRST_VERSION:
            return None
        set_handler, get_handler = _numpy_functions(numpy)
        before = _capsule_pointer(get_handler(), _HANDLER_NAME)
        fd, ledger = ctypes.c_int(-1), ctypes.c_size_t()
        handler = self._library.millpond_start(before, ctypes.byref(fd), ctypes.byref(ledger))
        if not handler:
            return None
        make = ctypes.pythonapi.PyCapsule_New
        make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        self._handler = make(handler, _HANDLER_NAME, None)
        set_handler(self._handler)
        self._ledger = (ctypes.c_uint64 * 2).from_address(ledger.value)
        self._library.millpond_enable(1)
        return fd.value

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Arrays that are made meanwhile are no blocks."""
        self._library.millpond_enable(0)
        try:
            yield
        finally:
            self._library.millpond_enable(self._handler is not None)

    def pin(self, address: int, length: int) -> int | None:
        """The number of the array's block that has these bytes; it stays as it is until it is lent or unpinned."""
        number: int = self._library.millpond_pin(address, length)
        return number if number >= 0 else None

    def lend(self, number: int) -> bool:
        """Lends a pinned block, unless something in this process can still reach the array."""
        return bool(self._library.millpond_lend(number))

    def unpin(self, number: int) -> None:
        self._library.millpond_unpin(number)

    def take_back(self, number: int) -> None:
        """A block that was lent may be used again."""
        self._library.millpond_take_back(number)

    def block(self, number: int) -> Block:
        description = (ctypes.c_uint64 * 3)()
        self._library.millpond_describe(number, description)
        return Block(*description)

    def free_bytes(self) -> int:
        """Bytes of blocks that are kept for arrays to come."""
        return int(self._ledger[1])

    def evict_but_one(self) -> int | None:
        """Gives the block that has been free for the longest back to the system; its number, if there are several."""
        number: int = self._library.millpond_evict_but_one()
        return number if number >= 0 else None


def load() -> Allocator | None:
    """The library, if it is there and can be loaded."""
    try:
        return Allocator(ctypes.CDLL(str(Path(__file__).with_name("liballocator.so"))))
    except OSError:
        return None


def _numpy_functions(numpy: Any) -> tuple[Callable[[object], object], Callable[[], object]]:
    """`PyDataMem_SetHandler` and `PyDataMem_GetHandler`."""
    core = "numpy._core" if _version(numpy) >= (2, 0) else "numpy.core"
    capsule = importlib.import_module(f"{core}._multiarray_umath")._ARRAY_API
    table = ctypes.cast(_capsule_pointer(capsule, None) or 0, ctypes.POINTER(ctypes.c_void_p))
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[_SET_HANDLER] or 0)
    get_handler = ctypes.PYFUNCTYPE(ctypes.py_object)(table[_GET_HANDLER] or 0)
    return set_handler, get_handler


def _capsule_pointer(capsule: object, name: bytes | None) -> int | None:
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address: int | None = pointer(capsule, name)
    return address


def _version(numpy: Any) -> tuple[int, ...]:
    """Major and minor version; nothing of what is not numpy, or not yet imported."""
    parts = str(getattr(numpy, "__version__", "")).split(".")[:2]
    return tuple(int(part) for part in parts) if len(parts) == 2 and all(map(str.isdigit, parts)) else ()
