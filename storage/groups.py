"""Group commit: whatever writes wait are committed together, so they share one fsync.

Each write still gets an outcome of its own. One group is under way at a time; what comes meanwhile
makes up the next, so groups grow with the load and nobody waits for a timer.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import structlog

from storage.contract import StorageError, Unavailable
from storage.sql_writes import Write

GROUP = 256  # writes that share a transaction at the most
WAITING = 4_096  # writes that may wait; one more is refused

logger = structlog.get_logger()

Commit = Callable[[Sequence[Write]], Awaitable[Sequence[int | StorageError]]]


class Groups:
    """Owns the task that commits; `commits` and `writes` count what it has done.

    `commit` raises a `StorageError` where nothing is known of any of its writes.
    """

    def __init__(self, commit: Commit, *, name: str) -> None:
        self.commits = self.writes = 0
        self._commit = commit
        self._waiting: deque[tuple[Write, asyncio.Future[int]]] = deque()
        self._some = asyncio.Event()
        self._closed = False
        self._task = asyncio.create_task(self._run(), name=name)

    async def write(self, write: Write) -> int:
        """The revision of the write. A caller that gives up does not take it back."""
        if self._closed or len(self._waiting) >= WAITING:
            raise Unavailable("the store is closed" if self._closed else "too many writes wait")
        outcome: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((write, outcome))
        self._some.set()
        return await outcome

    async def close(self) -> None:
        """End after the group that is under way; what still waits is refused."""
        self._closed = True
        self._some.set()
        await self._task
        for _, outcome in self._waiting:
            _settle(outcome, Unavailable("the store is closed"))

    async def _run(self) -> None:
        while not self._closed:
            if not self._waiting:
                self._some.clear()
                await self._some.wait()
                continue
            size = min(GROUP, len(self._waiting))
            group = [self._waiting.popleft() for _ in range(size)]
            try:
                results = await self._commit([write for write, _ in group])
            except StorageError as error:
                results = [error] * len(group)
            except Exception as error:  # whatever it is: writers must hear, and the next be served
                logger.exception("group not committed")
                results = [Unavailable(f"unforeseen: {error!r}")] * len(group)
            self.commits += 1
            self.writes += size
            for (_, outcome), result in zip(group, results, strict=True):
                _settle(outcome, result)


def _settle(outcome: asyncio.Future[int], result: int | StorageError) -> None:
    if outcome.done():
        return  # the caller has gone; what was written stands
    if isinstance(result, int):
        outcome.set_result(result)
    else:
        outcome.set_exception(result)
