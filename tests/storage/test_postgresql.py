"""What is PostgreSQL's alone: standbys, and a primary that knows less than the one before."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import asyncpg
import pytest

from storage import Compacted, Event, Store, Unavailable, postgresql
from storage.connect import connect
from tests.storage.postgres_server import PostgresServer

WITH_STANDBY = (
    "ALTER SYSTEM SET synchronous_standby_names = 'away'",
    "SELECT pg_reload_conf()",
)
WITHOUT_STANDBY = (
    "SET synchronous_commit = local",
    "ALTER SYSTEM RESET synchronous_standby_names",
    "SELECT pg_reload_conf()",
)
_NAMES = itertools.count()


async def administer(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


class Watching:
    """Keeps what a watch tells, until it ends."""

    def __init__(self, store: Store, after: int) -> None:
        self.events: list[Event] = []
        self.reached = after
        self.task = asyncio.create_task(self._watch(store, after))

    async def _watch(self, store: Store, after: int) -> None:
        async for batch in store.watch("/", after=after):
            self.events += batch.events
            self.reached = batch.revision

    async def at(self, revision: int) -> None:
        async with asyncio.timeout(10):
            while self.reached < revision:
                await asyncio.sleep(0.02)


@pytest.fixture
async def url(postgresql: PostgresServer) -> AsyncIterator[str]:
    yield postgresql.database(f"alone-{next(_NAMES)}")
    await administer(postgresql.url, *WITHOUT_STANDBY)


async def test_nothing_is_shown_before_its_standby_has_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "TIMEOUT", 1.0)
    store = await connect(database_url=url)
    first = await store.create("/a", b"1")
    watching = Watching(store, first)
    await administer(url, *WITH_STANDBY)
    await asyncio.sleep(0.5)
    with pytest.raises(Unavailable):
        await store.create("/b", b"2")
    await asyncio.sleep(1.5)
    assert await store.revision() == first
    assert await store.get("/b") == (None, first)
    await administer(url, *WITHOUT_STANDBY)
    await watching.at(first + 1)
    assert [event.key for event in watching.events] == ["/b"]
    assert await store.create("/c", b"3") == first + 2
    watching.task.cancel()
    await store.close()


@pytest.mark.parametrize("burst", [0, 3], ids=["looking", "writing"])
async def test_a_log_that_went_back_is_begun_anew(url: str, burst: int) -> None:
    """Found where the log is looked at, or by who writes before, and passes the old end."""
    store = await connect(database_url=url)
    first = await store.create("/a", b"1")
    lost = await store.create("/lost", b"2")
    watching = Watching(store, first - 1)
    await watching.at(lost)
    await administer(
        url,
        f"DELETE FROM log WHERE revision = {lost}",
        f"DELETE FROM live WHERE revision = {lost}",
        f"UPDATE state SET revision = {first}",
    )
    await asyncio.gather(*(store.create(f"/early/{n}", b"3") for n in range(burst)))
    async with asyncio.timeout(10):
        with pytest.raises(Compacted):
            await watching.task
    again = Watching(store, first)
    assert await store.create("/b", b"4") == lost + burst
    await again.at(lost + burst)
    assert [event.revision for event in again.events] == [*range(lost, lost + burst + 1)]
    assert again.events[-1].key == "/b"
    again.task.cancel()
    await store.close()


async def test_another_server_may_take_its_time_to_migrate(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "START", 1.0)
    other = await asyncpg.connect(url.replace("+asyncpg", ""))
    await other.execute(f"SELECT pg_advisory_lock({postgresql.MIGRATION_LOCK})")
    opening = asyncio.create_task(connect(database_url=url))
    await asyncio.sleep(2.5)
    assert not opening.done()
    await other.close()
    store = await opening
    assert await store.create("/a", b"1") == 2
    await store.close()
