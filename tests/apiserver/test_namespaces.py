"""The namespace controller, where another server is faster or the store fails."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from apiserver.api import builtin
from apiserver.cache.cacher import Cacher
from apiserver.registry import namespaces
from apiserver.registry.gate import NamespaceGate
from apiserver.registry.namespaces import NamespaceController
from apiserver.registry.strategies import KEPT_NAMESPACES, STRATEGIES
from apiserver.registry.writer import Where, Writer
from storage import Condition, Unavailable
from storage.memory import MemoryStore

NAMESPACE, POLICY = [
    next(strategy for strategy in STRATEGIES if strategy.resource is resource)
    for resource in (builtin.NAMESPACES, builtin.NETWORKPOLICYS)
]
FOO = Where(NAMESPACE, "", "foo")


class LateWriter(Writer):
    """Waits between two collections that it empties until it is let go."""

    def __init__(self, store: MemoryStore, cacher: Cacher) -> None:
        super().__init__(
            store=store,
            gate=NamespaceGate(store=store, cacher=cacher),
            clock=time.time,
            rand=random.Random(1),
        )
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()

    async def clear(self, where: Where, *, until: int) -> bool:
        done = await super().clear(where, until=until)
        self.reached.set()
        await self.go_on.wait()
        return done


@asynccontextmanager
async def controller(store: MemoryStore) -> AsyncIterator[LateWriter]:
    cacher = Cacher(store=store, resources=[strategy.resource for strategy in STRATEGIES])
    writer = LateWriter(store, cacher)
    work = NamespaceController(writer=writer, cacher=cacher, strategies=STRATEGIES)
    tasks = [asyncio.create_task(cacher.run()), asyncio.create_task(work.run())]
    try:
        yield writer
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def stands(store: MemoryStore, key: str) -> bool:
    return (await store.get(key))[0] is not None


async def until(store: MemoryStore, key: str, *, there: bool) -> None:
    async with asyncio.timeout(5):
        while await stands(store, key) is not there:
            await asyncio.sleep(0.01)


async def test_C14_a_late_server_leaves_the_next_namespace_of_the_name_alone() -> None:
    store = MemoryStore()
    policy = Where(POLICY, "foo", "p")
    async with controller(store) as late, controller(store) as fast:
        late.go_on.clear()
        await until(store, builtin.NAMESPACES.prefix + "default", there=True)
        await fast.create(FOO, {"metadata": {"name": "foo"}})
        await fast.delete(FOO)
        await late.reached.wait()
        await until(store, FOO.key, there=False)
        await fast.create(FOO, {"metadata": {"name": "foo"}})
        await fast.create(policy, {"metadata": {"name": "p"}, "spec": {}})
        before = await store.revision()
        late.reached.clear()
        late.go_on.set()
        await asyncio.sleep(0.1)
        assert await stands(store, policy.key)
        assert await store.revision() == before
        await fast.delete(FOO)
        await until(store, FOO.key, there=False)
        assert not await stands(store, policy.key)


class FailingStore(MemoryStore):
    """Out of reach for the first writes."""

    left = 3

    async def create(self, key: str, value: bytes, *, given: Condition | None = None) -> int:
        if self.left:
            self.left -= 1
            raise Unavailable("no leader")
        return await super().create(key, value, given=given)


async def test_a_store_out_of_reach_at_the_start_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(namespaces, "RETRY", 0.01)
    store = FailingStore()
    async with controller(store):
        for name in KEPT_NAMESPACES:
            await until(store, builtin.NAMESPACES.prefix + name, there=True)
