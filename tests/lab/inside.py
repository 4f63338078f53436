"""Do something in a network namespace from the test's own process, by a thread that goes there."""

import ctypes
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000


def within(netns: str, function: Callable[[], T]) -> T:
    """Call it in a thread that is in a network namespace."""
    results: list[T] = []

    def enter() -> None:
        with open(Path("/run/netns") / netns) as handle:
            assert ctypes.CDLL(None).setns(handle.fileno(), _CLONE_NEWNET) == 0
        results.append(function())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    (result,) = results
    return result


def socket_in(netns: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket stays in the namespace in which it was made. It does not block."""
    made = within(netns, lambda: socket.socket(family, kind, protocol))
    made.setblocking(False)
    return made
