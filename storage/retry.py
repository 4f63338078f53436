"""Try again while a store is out of reach for a moment: a leader is elected, a database restarts.

Reads are tried again whatever failed; writes only where they are known to have had no effect.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

from storage.contract import NotSent, StorageError, Unavailable

FOR = 4.0  # seconds: longer than an election of etcd, shorter than clients wait
FIRST, LONGEST = 0.02, 0.5  # seconds between attempts

PAUSE = 0.5  # seconds between rounds of what goes on for ever

T = TypeVar("T")

logger = structlog.get_logger()


def reading(attempt: Callable[[], Awaitable[T]]) -> Coroutine[Any, Any, T]:
    """What `attempt` returns; its last `Unavailable` once the time is up."""
    return _again(attempt, Unavailable)


def unsent(attempt: Callable[[], Awaitable[T]]) -> Coroutine[Any, Any, T]:
    """The same for a write: only `NotSent` is tried again."""
    return _again(attempt, NotSent)


async def after(error: Exception, what: str) -> None:
    """Say what failed, with its trace where nobody foresaw that, and wait for the next attempt."""
    unforeseen = None if isinstance(error, StorageError) else error
    logger.warning(f"{what}; trying again", error=str(error), exc_info=unforeseen)
    await asyncio.sleep(PAUSE)


async def _again(attempt: Callable[[], Awaitable[T]], on: type[Unavailable]) -> T:
    deadline, delay = 0.0, FIRST
    while True:
        try:
            return await attempt()
        except on:
            now = time.monotonic()
            deadline = deadline or now + FOR
            if now + delay > deadline:
                raise
        await asyncio.sleep(delay)
        delay = min(delay * 2, LONGEST)
