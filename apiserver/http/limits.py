"""How much the server takes on at once, and how long a request may last.

k8s.io/apiserver `pkg/server/filters`: `maxinflight.go` and `timeout.go`. A watch is exempt from
both; it has its own deadline.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from apiserver.api import duration, status
from apiserver.http.request_info import WRITES, RequestInfo

STEP = 0.1  # seconds
WRITE_TIMEOUT = 34.0  # seconds that a write may take, as upstream: less than its clients wait


class Deadlines:
    """Ends what lasts too long, at most `STEP` late.

    Whatever is due together shares a timer: one for each request would be a good part of its cost.
    """

    def __init__(self) -> None:
        self._due: dict[int, set[asyncio.Task[None] | None]] = {}

    async def run(self, call: Callable[[], Awaitable[None]], seconds: float) -> None:
        """Do something in the current task. 504 after so many seconds."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        step = int((loop.time() + seconds) / STEP) + 1
        due = self._due.get(step)
        if due is None:
            due = self._due[step] = set()
            loop.call_at(step * STEP, self._end, step)
        due.add(task)
        try:
            await call()
        except asyncio.CancelledError:
            # It may have been cancelled for another reason as well, which then counts.
            if self._due.get(step) is due or task is None or task.uncancel():
                raise
            raise status.timed_out() from None
        finally:
            due.discard(task)

    def _end(self, step: int) -> None:
        for task in self._due.pop(step):
            if task is not None:
                task.cancel()


@dataclass(slots=True)
class Limits:
    """Counts the requests under way. `timeout` is in seconds; a write has 34 of them at most."""

    reads: int
    writes: int
    timeout: float
    stopping: asyncio.Event
    reading: int = 0
    writing: int = 0
    deadlines: Deadlines = field(default_factory=Deadlines)

    async def run(
        self,
        call: Callable[[], Awaitable[None]],
        info: RequestInfo | None,
        asked: str,
        *,
        exempt: bool = False,
    ) -> None:
        """Do a request. 429 beyond the limits, 503 while stopping, 504 after its time.

        `asked` is the client's own `timeout`, a Go duration or empty: 400 where it is none. Who is
        `exempt` is never one too many.
        """
        if info is not None and info.verb == "watch":
            await call()
            return
        if self.stopping.is_set() and info is not None:
            raise status.unavailable("apiserver is shutting down")
        write = info is not None and info.verb in WRITES
        seconds = min(self.timeout, WRITE_TIMEOUT) if write else self.timeout
        if asked:
            seconds = min(seconds, _seconds(asked) or seconds)
        full = (self.writing if write else self.reading) >= (self.writes if write else self.reads)
        if full and not exempt:
            raise status.too_many_requests()
        self._count(write, 1)
        try:
            await self.deadlines.run(call, seconds)
        finally:
            self._count(write, -1)

    def _count(self, write: bool, step: int) -> None:
        if write:
            self.writing += step
        else:
            self.reading += step


def _seconds(text: str) -> float:
    try:
        return max(duration.parse(text), 0.0)
    except ValueError as error:
        raise status.bad_request(
            f"invalid timeout specified in the request URL - {error}"
        ) from error
