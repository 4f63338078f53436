"""Do something inside a named network namespace: in a thread, which nothing else comes back to."""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

NAMED = Path("/run/netns")
_CLONE_NEWNET = 0x40000000

T = TypeVar("T")


def inside(netns: str, function: Callable[[], T]) -> T:
    """What the function returns, or raises; a socket that it opens stays in the namespace."""

    def work() -> T:
        _enter(netns)
        return function()

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix=netns) as thread:
        return thread.submit(work).result()


def _enter(netns: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(NAMED / netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(handle, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"network namespace {netns}")
    finally:
        os.close(handle)
