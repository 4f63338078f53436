"""Keeps every resource's objects equal to the store, through one list and one watch.

The registry reads through it, the watch handler waits on it. It never writes. One watch over all
that the resources' prefixes have in common makes them share one revision, so a read is known to be
fresh whatever resource the last write went to.
"""

import asyncio
import contextlib
import posixpath
from collections.abc import AsyncGenerator, Callable, Sequence

import structlog

from apiserver.api.resource import Resource
from apiserver.cache.objects import Objects
from storage import Batch, Compacted, Store, Unavailable

CAPACITY = 10_000  # events a resource keeps: minutes of churn in a busy cluster
LIMIT = 64 << 20  # bytes a resource's events may hold
PAGE = 5_000  # records a page of the first list
RETRY = 0.5  # seconds between attempts to reach the store

log = structlog.get_logger()


class Cacher:
    """Owns the task that follows the store; `revision` is what the cache is complete to."""

    def __init__(
        self,
        *,
        store: Store,
        resources: Sequence[Resource],
        capacity: int = CAPACITY,
        limit: int = LIMIT,
    ) -> None:
        self.revision = 0
        self._store = store
        self._resources = tuple(resources)
        self._root = posixpath.commonpath([r.prefix for r in resources]).rstrip("/") + "/"
        self._capacity = capacity
        self._limit = limit
        self._objects: dict[str, Objects] = {}
        self._waiting: list[Callable[[], None]] = []
        self._ready = asyncio.Event()

    @property
    def ready(self) -> bool:
        return self._ready.is_set()

    async def run(self) -> None:
        """Follow the store until cancelled, starting over where its history was compacted."""
        while True:
            try:
                await self._load()
                async with contextlib.aclosing(self._follow()) as batches:
                    async for batch in batches:
                        self._apply(batch)
            except Compacted:
                log.warning("store history compacted under the watch cache; listing again")
            except Unavailable as error:
                log.warning("store unavailable; trying again", error=str(error))
                await asyncio.sleep(RETRY)

    def objects(self, resource: Resource) -> Objects:
        """The state of a resource. After a relist it is another value, and this one is stale."""
        return self._objects[resource.prefix]

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
        """Wait until the cache is complete to a revision; whether it got there in time."""
        if self.revision >= revision:
            return True
        try:
            async with asyncio.timeout(timeout):
                while self.revision < revision:
                    await self.moved()
        except TimeoutError:
            return False
        return True

    async def moved(self) -> None:
        """Return when the cache moves next. Look at its state first, and await nothing between."""
        moved = asyncio.Event()
        self.on_move(moved.set)
        await moved.wait()

    def on_move(self, call: Callable[[], None]) -> None:
        """Call something when the cache moves next, once. It must not raise."""
        self._waiting.append(call)

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
                log.error("stored object does not decode; it is not served", key=key, error=why)
        for old in self._objects.values():
            old.stale = True
        self._objects = fresh
        self._place = place
        self.revision = revision
        self._ready.set()
        self._wake()

    def _follow(self) -> AsyncGenerator[Batch, None]:
        return self._store.watch(self._root, after=self.revision)

    def _apply(self, batch: Batch) -> None:
        for event in batch.events:
            if (objects := self._place(event.key)) is not None:
                objects.apply(event)
                if event.key in objects.broken:
                    log.error(
                        "stored object does not decode; it is not served",
                        key=event.key,
                        error=objects.broken[event.key],
                    )
        if batch.revision > self.revision:
            self.revision = batch.revision
            for objects in self._objects.values():
                objects.revision = batch.revision
        self._wake()

    def _wake(self) -> None:
        woken, self._waiting = self._waiting, []
        for call in woken:
            call()


def _placer(objects: dict[str, Objects]) -> Callable[[str], Objects | None]:
    """Find the resource of a key by its prefix: `/pods/` or `/GROUP/pods/`."""

    def place(key: str) -> Objects | None:
        first = key.find("/", 1) + 1
        found = objects.get(key[:first])
        if found is None:
            found = objects.get(key[: key.find("/", first) + 1])
        return found

    return place
