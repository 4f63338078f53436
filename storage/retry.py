"""Try again while a store is out of reach for a moment: a leader is elected, a database restarts.

Reads are tried again whatever failed; writes only where they are known to have had no effect.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from storage.contract import NotSent, Unavailable

FOR = 4.0  # seconds: longer than an election of etcd, shorter than clients wait
FIRST, LONGEST = 0.02, 0.5  # seconds between attempts

T = TypeVar("T")


def reading(attempt: Callable[[], Awaitable[T]]) -> Coroutine[Any, Any, T]:
    """What `attempt` returns; its last `Unavailable` once the time is up."""
    return _again(attempt, Unavailable)


def unsent(attempt: Callable[[], Awaitable[T]]) -> Coroutine[Any, Any, T]:
    """The same for a write: only `NotSent` is tried again."""
    return _again(attempt, NotSent)


async def _again(attempt: Callable[[], Awaitable[T]], on: type[Unavailable]) -> T:
    loop = asyncio.get_running_loop()
    deadline, delay = 0.0, FIRST
    while True:
        try:
            return await attempt()
        except on:
            deadline = deadline or loop.time() + FOR
            if loop.time() + delay > deadline:
                raise
        await asyncio.sleep(delay)
        delay = min(delay * 2, LONGEST)
