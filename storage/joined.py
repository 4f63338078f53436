"""One read for all who ask at the same time; the engines whose revision is a round trip use it.

A linearizable read may be shared only by those who came before it began. So whoever comes while one
is under way shares the next.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Joined(Generic[T]):
    """Call it like what it wraps. The shared call goes on when a caller gives up."""

    def __init__(self, call: Callable[[], Coroutine[Any, Any, T]], *, name: str) -> None:
        self._call = call
        self._name = name
        self._running: asyncio.Task[T] | None = None
        self._next: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._running), name=self._name)
            self._next.add_done_callback(_look)
        return await asyncio.shield(self._next)

    async def _after(self, running: "asyncio.Task[T] | None") -> T:
        if running is not None:
            await asyncio.wait([running])
        self._running, self._next = self._next, None
        return await self._call()


def _look(task: asyncio.Task[Any]) -> None:
    """An error that no caller is left to hear is no news for the event loop's log."""
    if not task.cancelled():
        task.exception()
