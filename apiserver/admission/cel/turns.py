"""Whose job is next where processes are few: nobody keeps the others waiting.

A user has one turn at a time, and of those who wait, who has used the least goes first. What waits
is bounded, by jobs and by bytes, for each user and for all; beyond it a request is to come again
(429).
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from apiserver.api import status

OF_ONE, OF_ALL = (32, 8 << 20), (400, 64 << 20)  # jobs and bytes: two objects of 3 MiB are one job
PATIENCE = 10.0  # seconds: a write may take 34 in all
FORGOTTEN = 10.0  # seconds until what somebody used counts half
TRACE = 0.001  # seconds of use that are none


@dataclass(eq=False, slots=True)
class _Waiting:
    size: int
    turn: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Turns:
    """`slots` are had at once."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._having: set[str] = set()
        self._waiting: dict[str, deque[_Waiting]] = {}
        self._used: dict[str, float] = {}
        self._halved = 0.0

    @contextlib.asynccontextmanager
    async def take(self, who: str, size: Callable[[], int]) -> AsyncIterator[None]:
        """429 where too much waits already. `size` is asked of a job that has to, in bytes."""
        if self._free and who not in self._having:
            self._give(who)
        else:
            await self._wait(who, size)
        try:
            yield
        finally:
            self._return(who)

    def charge(self, who: str, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        if now > self._halved + FORGOTTEN:
            self._halved = now
            self._used = {key: used / 2 for key, used in self._used.items() if used > TRACE}
        self._used[who] = self._used.get(who, 0.0) + seconds

    async def _wait(self, who: str, size: Callable[[], int]) -> None:
        mine = self._waiting.get(who, ())
        everybody = [job for jobs in self._waiting.values() for job in jobs]
        bounds = (mine, *OF_ONE), (everybody, *OF_ALL)
        if any(len(jobs) >= most for jobs, most, _ in bounds):
            raise status.too_many_requests()
        job = _Waiting(size())
        for jobs, _, largest in bounds:
            if jobs and job.size + sum(other.size for other in jobs) > largest:
                raise status.too_many_requests()
        self._waiting.setdefault(who, deque()).append(job)
        try:
            async with asyncio.timeout(PATIENCE):
                await job.turn
        except TimeoutError:
            self._leave(who, job)
            raise status.too_many_requests() from None
        except asyncio.CancelledError:
            self._leave(who, job)
            raise

    def _leave(self, who: str, job: _Waiting) -> None:
        if job.turn.done() and not job.turn.cancelled():  # it was given in the same moment
            self._return(who)
        elif job in self._waiting.get(who, ()):
            self._take_out(who, job)

    def _take_out(self, who: str, job: _Waiting) -> None:
        self._waiting[who].remove(job)
        if not self._waiting[who]:
            del self._waiting[who]

    def _give(self, who: str) -> None:
        self._free -= 1
        self._having.add(who)

    def _return(self, who: str) -> None:
        self._free += 1
        self._having.discard(who)
        able = [each for each in self._waiting if each not in self._having]
        # Of equals, who came first.
        for each in sorted(able, key=lambda each: self._used.get(each, 0.0)):
            for job in tuple(self._waiting[each]):
                self._take_out(each, job)
                if not job.turn.done():  # one that was cancelled is about to leave
                    self._give(each)
                    job.turn.set_result(None)
                    return
