"""The audit events on their way to a webhook: an `audit.k8s.io/v1` EventList for each batch.

k8s.io/apiserver `plugin/pkg/audit/buffered` and `webhook`. A webhook that is slow or away costs
memory up to a bound and then events, and no request its time, unless that waits for its events.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from apiserver.audit.loss import Loss

ATTEMPTS = 5
FACTOR, JITTER = 1.5, 0.2  # of the waits between them; `pkg/util/webhook/webhook.go`
AT_ONCE = 15  # batches under way, as upstream's burst
BYTES = 64 << 20  # of events that wait or are under way
BATCH_BYTES = 10 << 20  # of one batch, as upstream's --audit-webhook-truncate-max-batch-size
PATIENCE = 10.0  # seconds that the last events get at shutdown
HEAD = b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":['

Told = Callable[[bool], None]


@dataclass(frozen=True, slots=True)
class Batching:
    """`size` and `buffer` count events; `wait` and `backoff` are seconds.

    A batch goes when it is full or its oldest event has waited. `backoff` is the first wait after
    a failure.
    """

    size: int = 400
    wait: float = 30.0
    buffer: int = 10_000
    backoff: float = 10.0


class Webhook:
    """Sends what is added, until `close`. `post` sends a body; it raises where that fails."""

    plugin = "webhook"

    def __init__(
        self,
        post: Callable[[bytes], Awaitable[None]],
        batching: Batching,
        *,
        closed: Callable[[], Awaitable[None]],
        rand: random.Random,
    ) -> None:
        self.loss = Loss()
        self._post = post
        self._closed = closed
        self._batching = batching
        self._rand = rand
        self._queue: deque[tuple[bytes, float]] = deque()
        self._held = 0  # events that wait or are under way
        self._bytes = 0  # of them
        self._news = asyncio.Event()
        self._closing = asyncio.Event()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._sending: set[asyncio.Task[bool]] = set()
        self._task = asyncio.create_task(self._run(), name="audit webhook")

    def add(self, event: bytes, told: Told | None = None) -> None:
        """Never waits. With `told` the event goes by itself and at once, and its fate is told."""
        full = self._held >= self._batching.buffer or self._bytes + len(event) > BYTES
        if full or self._closing.is_set():
            why = "the buffer is full: the webhook is too slow" if full else "the server ends"
            self.loss.add(1, why)
            if told is not None:
                told(False)
            return
        self._held += 1
        self._bytes += len(event)
        if told is not None:
            task = self._begin(self._deliver([event]))
            task.add_done_callback(lambda task: told(not task.cancelled() and task.result()))
            return
        self._queue.append((event, asyncio.get_running_loop().time()))
        self._news.set()

    async def close(self) -> None:
        """Send what waits, for some seconds at most."""
        self._closing.set()
        self._news.set()
        await asyncio.wait([self._task, *self._sending], timeout=PATIENCE)
        if self._sending:  # what the task began meanwhile has the rest of the time
            self._task.cancel()
            for task in self._sending:
                task.cancel()
            await asyncio.gather(*self._sending, return_exceptions=True)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._held:
            self.loss.add(self._held, "the server ends")
        await self._closed()

    async def _run(self) -> None:
        while batch := await self._next():
            await self._slots.acquire()
            task = self._begin(self._deliver(batch))
            task.add_done_callback(lambda _: self._slots.release())
        if self._sending:
            await asyncio.wait(self._sending)

    def _begin(self, work: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
        task = asyncio.create_task(work, name="audit events")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task

    async def _next(self) -> Sequence[bytes]:
        """The next batch; empty at the end."""
        queue, batching, loop = self._queue, self._batching, asyncio.get_running_loop()
        while not self._closing.is_set() and len(queue) < batching.size:
            self._news.clear()
            left = queue[0][1] + batching.wait - loop.time() if queue else None
            if left is not None and left <= 0:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._news.wait()
        batch: list[bytes] = []
        size = 0
        while queue and len(batch) < batching.size:
            size += len(queue[0][0])
            if batch and size > BATCH_BYTES:
                break
            batch.append(queue.popleft()[0])
        return batch

    async def _deliver(self, batch: Sequence[bytes]) -> bool:
        """Whether it has arrived. Whatever went wrong, it is tried again, as upstream does."""
        body = HEAD + b",".join(batch) + b"]}"
        wait = self._batching.backoff
        for left in reversed(range(ATTEMPTS)):
            last = self._closing.is_set()
            try:
                await self._post(body)
                break
            except Exception as error:  # noqa: BLE001  such as of a token that cannot be read
                if not left or last:
                    self.loss.add(len(batch), str(error) or repr(error))
                    self._release(batch)
                    return False
            with contextlib.suppress(TimeoutError):  # a server that ends tries once more at once
                async with asyncio.timeout(wait * (1 + self._rand.random() * JITTER)):
                    await self._closing.wait()
            wait *= FACTOR
        self._release(batch)
        return True

    def _release(self, batch: Sequence[bytes]) -> None:
        self._held -= len(batch)
        self._bytes -= sum(map(len, batch))
