"""Several servers on one PostgreSQL or etcd: each sees what every other writes, in one order."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from storage import Conflict, KeyExists, Store
from storage.connect import connect
from tests.storage.engines import address
from tests.storage.test_contract import gather


@pytest.fixture(params=["postgresql", "etcd"])
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[list[Store]]:
    """Three on one log."""
    where = address(request, request.param)
    opened = [await connect(**where) for _ in range(3)]
    yield opened
    for store in opened:
        await store.close()


async def test_what_one_wrote_the_others_read_at_once(stores: list[Store]) -> None:
    revision = await stores[0].create("/a", b"0")
    for turn in range(30):
        writer, reader = stores[turn % 3], stores[(turn + 1) % 3]
        revision = await writer.update("/a", str(turn).encode(), expected=revision)
        assert await reader.revision() >= revision
        record, at = await reader.get("/a")
        assert record is not None
        assert (record.value, record.revision) == (str(turn).encode(), revision)
        assert at >= revision
        assert (await reader.list("/")).records == (record,)


async def test_of_writers_on_several_servers_one_wins(stores: list[Store]) -> None:
    made = await asyncio.gather(
        *(store.create("/a", b"1") for store in stores * 5), return_exceptions=True
    )
    assert sum(isinstance(outcome, int) for outcome in made) == 1
    assert sum(isinstance(outcome, KeyExists) for outcome in made) == 14

    async def increment(store: Store) -> None:
        record, _ = await store.get("/a")
        while True:
            assert record is not None
            try:
                value = str(int(record.value) + 1).encode()
                await store.update("/a", value, expected=record.revision)
            except Conflict as error:
                record = error.current
            else:
                return

    await asyncio.gather(*(increment(store) for store in stores * 10))
    record, _ = await stores[0].get("/a")
    assert record is not None
    assert record.value == b"31"


async def test_all_watch_the_same_log_without_gaps(stores: list[Store]) -> None:
    start = await stores[0].revision()
    watches = [store.watch("/w/", after=start) for store in stores]
    rand = random.Random(7)
    written: list[int] = []

    async def write(worker: int, store: Store) -> None:
        for number in range(60):
            revision = await store.create(f"/w/{worker}-{number}", b"1" * rand.randint(1, 3000))
            written.append(revision)
            if number % 3 == 0:
                written.append(await store.delete(f"/w/{worker}-{number}", expected=revision))

    total = 6 * 80
    writing = asyncio.gather(*(write(n, store) for n, store in enumerate(stores * 2)))
    seen = await asyncio.gather(*(gather(watch, total) for watch in watches))
    await writing
    for watch in watches:
        await watch.aclose()
    assert [event.revision for event in seen[0]] == sorted(written)
    assert seen[0] == seen[1] == seen[2]


async def test_a_compaction_by_one_is_a_compaction_for_all(stores: list[Store]) -> None:
    first = await stores[0].create("/a", b"1")
    second = await stores[0].update("/a", b"2", expected=first)
    watch = stores[1].watch("/", after=second)
    await anext(watch)
    await stores[0].compact(second)
    third = await stores[2].update("/a", b"3", expected=second)
    assert [event.revision for event in await gather(watch, 1)] == [third]
    await watch.aclose()
    assert await stores[1].revision() == third
