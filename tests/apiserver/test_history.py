"""Who forgets what is older than the history kept, and when."""

import asyncio
import contextlib

import pytest

from apiserver.registry import history
from storage import Compacted, Record, Store
from storage.memory import MemoryStore


async def compacted(store: Store) -> int:
    """The oldest state that can be read."""
    for revision in range(1, await store.revision() + 1):
        with contextlib.suppress(Compacted):
            await store.list("/", revision=revision)
            return revision
    raise AssertionError("no state can be read")


async def test_what_was_noted_a_retention_ago_is_the_oldest_that_is_kept() -> None:
    store, seen = MemoryStore(), None
    noted = []
    for turn in range(8):
        await store.create(f"/a/{turn}", b"1")
        noted.append(await store.revision())
        seen = await history._round(store, seen, 3)
        assert await compacted(store) == (noted[turn - 3] if turn >= 3 else 1)


async def test_S04_one_of_several_servers_takes_a_round() -> None:
    store = MemoryStore()
    seen: list[Record | None] = [None, None, None]
    for turn in range(12):
        await store.create(f"/a/{turn}", b"1")
        before = await store.revision()
        seen = list(await asyncio.gather(*(history._round(store, s, 2) for s in seen)))
        assert await store.revision() == before + 1
        assert seen[0] == seen[1] == seen[2]


async def test_a_server_that_starts_keeps_the_notes_of_those_before() -> None:
    store, seen = MemoryStore(), None
    for turn in range(5):
        await store.create(f"/a/{turn}", b"1")
        seen = await history._round(store, seen, 3)
    oldest = await compacted(store)
    started, _ = await store.get(history.KEY)
    await history._round(store, started, 3)
    assert await compacted(store) > oldest
    # One that has not seen the last round takes none.
    assert await history._round(store, seen, 3) == (await store.get(history.KEY))[0]


@pytest.mark.parametrize("value", [b"{", b"null", b'["x"]', b"7"])
async def test_notes_that_make_no_sense_are_begun_anew(value: bytes) -> None:
    store = MemoryStore()
    revision = await store.create(history.KEY, value)
    seen: Record | None = Record(history.KEY, value, revision, revision)
    for _ in range(3):
        seen = await history._round(store, seen, 2)
    assert await compacted(store) > 1


async def test_it_goes_on_by_itself() -> None:
    store = MemoryStore()
    tasks = [
        asyncio.create_task(history.compact(store, retention=0.03, interval=0.01)) for _ in range(2)
    ]
    async with asyncio.timeout(10):
        while await compacted(store) < 5:
            await asyncio.sleep(0.005)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
