"""The store with a stopwatch: how long it takes for what it is asked, and how often it fails.

`app` puts it around the engine; `http.storage_metrics` publishes what it counts.
"""

import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import storage
from apiserver.api import latency
from apiserver.api.resource import Resource
from apiserver.api.tally import SECONDS, Tally
from storage import Batch, Condition, Page, Record

T = TypeVar("T")


class Operation(NamedTuple):
    """What was asked, of which resource; the latter are empty where it is none's."""

    name: str
    group: str
    resource: str


class Measured:
    """See `storage.contract.Store`. A refusal, such as a conflict, is an answer and no failure."""

    def __init__(self, store: storage.Store, resources: Sequence[Resource]) -> None:
        self.name = store.name
        self.durations: dict[Operation, Tally] = {}
        self.failures: Counter[Operation] = Counter()
        self._store = store
        self._resources = {resource.prefix: resource for resource in resources}

    async def revision(self) -> int:
        return await self._timed("revision", "", self._store.revision())

    async def get(self, key: str) -> tuple[Record | None, int]:
        return await self._timed("get", key, self._store.get(key))

    async def list(
        self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0
    ) -> Page:
        listing = self._store.list(prefix, after=after, limit=limit, revision=revision)
        return await self._timed("list", prefix, listing)

    async def create(self, key: str, value: bytes, *, given: Condition | None = None) -> int:
        return await self._timed("create", key, self._store.create(key, value, given=given))

    async def update(self, key: str, value: bytes, *, expected: int) -> int:
        return await self._timed("update", key, self._store.update(key, value, expected=expected))

    async def delete(self, key: str, *, expected: int) -> int:
        return await self._timed("delete", key, self._store.delete(key, expected=expected))

    def watch(self, prefix: str, *, after: int) -> AsyncGenerator[Batch, None]:
        return self._store.watch(prefix, after=after)

    async def tell_progress(self, *, force: bool = False) -> bool:
        return await self._store.tell_progress(force=force)

    async def compact(self, revision: int) -> None:
        await self._timed("compact", "", self._store.compact(revision))

    def counted(self) -> Mapping[str, int]:
        return self._store.counted()

    async def close(self) -> None:
        await self._store.close()

    async def _timed(self, name: str, key: str, work: Awaitable[T]) -> T:
        begun = time.perf_counter()
        operation = self._operation(name, key)
        try:
            return await work
        except storage.Unavailable:
            self.failures[operation] += 1
            raise
        finally:
            tally = self.durations.get(operation)
            if tally is None:
                tally = self.durations[operation] = Tally(SECONDS)
            seconds = time.perf_counter() - begun
            tally.add(seconds)
            latency.spent("etcd", seconds)  # upstream's name for any store

    def _operation(self, name: str, key: str) -> Operation:
        for prefix, resource in self._resources.items():
            if key.startswith(prefix):
                return Operation(name, resource.group, resource.plural)
        return Operation(name, "", "")
