"""Keeps every resource's objects equal to the store, through one list and one watch.

The registry reads through it, the watch handler waits on it. It never writes. One watch over all
that the resources' prefixes have in common makes them share one revision, so a read is known to be
fresh whatever resource the last write went to.
"""

import asyncio
import contextlib
import posixpath
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence

import structlog

from apiserver.api.resource import Resource
from apiserver.cache.object import Change
from apiserver.cache.objects import Objects
from apiserver.cache.ring import Expired, Ring
from storage import Batch, Compacted, Store, Unavailable
from storage.wakeup import Wakeup

CAPACITY = 10_000  # events a resource keeps: minutes of churn in a busy cluster
LIMIT = 64 << 20  # bytes a resource's events may hold
PAGE = 2_000  # records a page of the first list
RETRY = 0.5  # seconds between attempts to reach the store
ASK = 0.1  # seconds between questions to the store how far its watch is complete, while one waits
UNTOLD = 0.05  # seconds to wait for an event where the store cannot tell that
IDLE = 5.0  # seconds between such questions while nobody waits: bookmarks tell of them
HISTORIES = 8  # reads of the store's history at once; further ones wait for their turn

UNDECODABLE = "stored object does not decode; it is not served"

log = structlog.get_logger()


class Cacher:
    """Owns the task that follows the store; `revision` is what the cache is complete to.

    `starts` counts the lists that it began with, `received` the events by the resource's prefix.
    """

    def __init__(
        self,
        *,
        store: Store,
        resources: Sequence[Resource],
        capacity: int = CAPACITY,
        limit: int = LIMIT,
    ) -> None:
        self.revision = 0
        self.starts = 0
        self.received: Counter[str] = Counter()
        self._store = store
        self._resources = tuple(resources)
        self._root = posixpath.commonpath([r.prefix for r in resources]).rstrip("/") + "/"
        self._capacity = capacity
        self._limit = limit
        self._objects: dict[str, Objects] = {}
        self._moved = Wakeup()
        self._ready = asyncio.Event()
        self._asked = 0.0
        self._told = True  # whether the store can tell how far its watch is complete
        self._missed = 0  # where the watch stood when more was waited for in vain
        self._histories = asyncio.Semaphore(HISTORIES)

    @property
    def ready(self) -> bool:
        return self._ready.is_set()

    async def run(self) -> None:
        """Follow the store until cancelled, starting over where its history was compacted."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._ask_while_idle(), name="watch cache progress")
            while True:
                try:
                    if not self.ready:
                        await self._load()
                    async with contextlib.aclosing(self._follow()) as batches:
                        async for batch in batches:
                            self._apply(batch)
                except Compacted:
                    log.warning("store history compacted under the watch cache; listing again")
                    self._ready.clear()
                except Unavailable as error:
                    log.warning(
                        "store unavailable; trying again",
                        error=str(error),
                        reason="StorageUnavailable",
                    )
                    await asyncio.sleep(RETRY)

    def objects(self, resource: Resource) -> Objects:
        """The state of a resource. After a relist it is another value, and this one is stale."""
        return self._objects[resource.prefix]

    def all(self) -> Sequence[Objects]:
        """The state of every resource; empty before the first list."""
        return tuple(self._objects.values())

    async def until_ready(self) -> None:
        await self._ready.wait()

    async def soon_ready(self, *, timeout: float) -> bool:
        """Whether the first list is there, or comes within some seconds."""
        if not self.ready:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._ready.wait()
        return self.ready

    async def caught_up(self, revision: int, *, timeout: float) -> bool:
        """Wait until the cache is complete to a revision; whether it got there in time.

        A store that cannot tell how far its watch is complete is not waited for that long.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while self.revision < revision:
            if not self._told and self._missed == self.revision:
                return False  # that was waited for in vain, and nothing has come since
            if loop.time() >= self._asked + ASK:
                await self._ask()
                continue
            until = deadline if self._told else min(deadline, self._asked + UNTOLD)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(until, self._asked + ASK)):
                    await self._moved.wait()
            if loop.time() >= until and self.revision < revision:
                self._missed = self.revision
                return False
        return True

    async def moved(self) -> None:
        """Return when the cache moves next. Look at its state first, and await nothing between."""
        await self._moved.wait()

    async def history(
        self, objects: Objects, after: int
    ) -> AsyncGenerator[tuple[Sequence[Change], int], None]:
        """The changes after a revision from the store, and how far they are complete.

        It ends where the ring of the objects goes on. `Expired` where the store has forgotten them.
        """
        watch = self._store.watch(objects.resource.prefix, after=after)
        complete = after
        async with contextlib.aclosing(watch) as batches:
            while complete < objects.ring.floor and not objects.stale:
                async with self._histories:
                    batch = await self._next(batches, objects.ring)
                complete = batch.revision
                changes = [objects.past(event) for event in batch.events]
                yield [change for change in changes if change], complete

    async def _next(self, batches: AsyncGenerator[Batch, None], ring: Ring[Change]) -> Batch:
        """The next batch that has events, or reaches to where the ring begins."""
        try:
            async for batch in batches:
                if batch.events or batch.revision >= ring.floor:
                    return batch
                await self._store.tell_progress(force=True)
        except Compacted as error:
            raise Expired(error.revision) from error
        raise Unavailable("the store is closed")

    async def _load(self) -> None:
        page = await self._store.list(self._root, limit=PAGE)
        revision = page.revision
        fresh = {
            resource.prefix: Objects(
                resource=resource, revision=revision, capacity=self._capacity, limit=self._limit
            )
            for resource in self._resources
        }
        place = _placer(fresh)
        while True:
            for record in page.records:
                if (objects := place(record.key)) is not None:
                    objects.load(record)
            if not page.remaining:
                break
            page = await self._store.list(
                self._root, after=page.records[-1].key, limit=PAGE, revision=revision
            )
        for objects in fresh.values():
            for key, why in objects.broken.items():
                log.error(UNDECODABLE, key=key, error=why, reason="UndecodableObject")
        gone, self._objects = self._objects, fresh
        self._place = place
        self.revision = revision
        self.starts += 1
        self._ready.set()
        for objects in gone.values():
            objects.stale = True
            objects.wake()
        self._moved.wake()

    def _follow(self) -> AsyncGenerator[Batch, None]:
        return self._store.watch(self._root, after=self.revision)

    def _apply(self, batch: Batch) -> None:
        changed: dict[str, Objects] = {}
        for event in batch.events:
            if (objects := self._place(event.key)) is not None:
                objects.apply(event)
                self.received[objects.resource.prefix] += 1
                changed[objects.resource.prefix] = objects
                if event.key in objects.broken:
                    log.error(
                        UNDECODABLE,
                        key=event.key,
                        error=objects.broken[event.key],
                        reason="UndecodableObject",
                    )
        if batch.revision > self.revision:
            self.revision = batch.revision
            for objects in self._objects.values():
                objects.revision = batch.revision
        for objects in changed.values():
            objects.wake()
        self._moved.wake()

    async def _ask(self, *, force: bool = False) -> None:
        self._asked = asyncio.get_running_loop().time()
        self._told = await self._store.tell_progress(force=force)

    async def _ask_while_idle(self) -> None:
        """So that bookmarks tell of writes elsewhere, and reads do not go to the store for long."""
        while True:
            await asyncio.sleep(IDLE)
            with contextlib.suppress(Unavailable):
                await self._ask(force=not self._told and self._missed == self.revision)


def _placer(objects: dict[str, Objects]) -> Callable[[str], Objects | None]:
    """Find the resource of a key by its prefix: `/pods/` or `/GROUP/pods/`."""

    def place(key: str) -> Objects | None:
        first = key.find("/", 1) + 1
        found = objects.get(key[:first])
        if found is None:
            found = objects.get(key[: key.find("/", first) + 1])
        return found

    return place
