"""Up and down through the versions of the tables, with a log in them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from storage import (
    Batch,
    Compacted,
    Event,
    EventType,
    Page,
    Record,
    StorageError,
    Store,
    postgresql,
    sql_schema,
    sqlite,
)
from storage.connect import connect, sqlite_path
from storage.migrate import migrate
from tests.storage.postgres_server import PostgresServer

# A store of the first release, as it wrote it: a, b and c, b updated, c deleted and made again, d
# deleted; compacted at 4, when the first state of b had been replaced.
LOG = (
    (2, "/registry/p/a", False, 2, 0, b"a1", None),
    (4, "/registry/p/b", False, 3, 3, b"b2", b"b1"),
    (5, "/registry/p/c", False, 5, 0, b"c1", None),
    (6, "/registry/p/d", False, 6, 0, b"d1", None),
    (7, "/registry/p/c", True, 5, 5, None, b"c1"),
    (8, "/registry/p/c", False, 8, 7, b"c2", None),
    (9, "/registry/p/d", True, 6, 6, None, b"d1"),
)
LIVE = (
    ("/registry/p/a", 2, 2, b"a1"),
    ("/registry/p/b", 4, 3, b"b2"),
    ("/registry/p/c", 8, 8, b"c2"),
)
HIGHEST, COMPACTED = 11, 4  # the last two writes were of a row that compaction has removed


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """An empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/log.sqlite"
    else:
        server: PostgresServer = request.getfixturevalue("postgresql")
        yield server.database(f"migrations-{tmp_path.name}")


async def run(url: str, work: Callable[[Connection], Any]) -> Any:
    """Call something with a connection to the database, in a transaction."""
    database: sqlite.SqliteDatabase | postgresql.PostgresDatabase
    if url.startswith("sqlite"):
        database = sqlite.open_database(sqlite_path(url))
    else:
        database = postgresql.open_database(url)
    try:
        return await database.migrating(work)
    finally:
        await database.close()


def fill_first_release(connection: Connection) -> None:
    log = text("INSERT INTO log VALUES (:a, :b, :c, :d, :e, :f, :g)")
    for a, b, c, d, e, f, g in LOG:
        row = {"a": a, "b": b.encode(), "c": c, "d": d, "e": e, "f": f, "g": g}
        connection.execute(log, row)
    for key, revision, created, value in LIVE:
        connection.execute(
            text("INSERT INTO live VALUES (:k, :r, :c, :v)"),
            {"k": key.encode(), "r": revision, "c": created, "v": value},
        )
    connection.execute(text("UPDATE state SET compacted = :c"), {"c": COMPACTED})
    if connection.dialect.name == "sqlite":
        connection.execute(text("UPDATE sqlite_sequence SET seq = :h"), {"h": HIGHEST})
    else:
        connection.execute(text("SELECT setval('log_revision_seq', :h)"), {"h": HIGHEST})


def rows_of_first_release(connection: Connection) -> Any:
    log = connection.execute(text("SELECT * FROM log ORDER BY revision")).all()
    live = connection.execute(text("SELECT * FROM live ORDER BY key")).all()
    (compacted,) = connection.execute(text("SELECT compacted FROM state")).one()
    return (
        [(row[0], bytes(row[1]).decode(), bool(row[2]), *row[3:]) for row in log],
        [(bytes(row[0]).decode(), *row[1:]) for row in live],
        compacted,
    )


async def events(store: Store, after: int) -> list[Event]:
    watch = store.watch("/p/", after=after)
    async with asyncio.timeout(5):
        batch: Batch = await anext(watch)
    await watch.aclose()
    return list(batch.events)


async def test_a_log_of_the_first_release_is_taken_over_whole(url: str) -> None:
    await migrate(url, "0001")
    await run(url, fill_first_release)
    store = await connect(database_url=url)
    try:
        assert await store.revision() == HIGHEST
        assert await store.list("/p/") == Page(
            (Record("/p/a", b"a1", 2, 2), Record("/p/b", b"b2", 4, 3), Record("/p/c", b"c2", 8, 8)),
            HIGHEST,
            0,
        )
        state = await store.list("/p/", revision=6)
        assert [record.value for record in state.records] == [b"a1", b"b2", b"c1", b"d1"]
        (at_the_mark, *_) = await events(store, COMPACTED - 1)
        assert at_the_mark == Event(EventType.UPDATED, "/p/b", 4, b"b2", b"b1")
        assert await events(store, 6) == [
            Event(EventType.DELETED, "/p/c", 7, None, b"c1"),
            Event(EventType.CREATED, "/p/c", 8, b"c2", None),
            Event(EventType.DELETED, "/p/d", 9, None, b"d1"),
        ]
        with pytest.raises(Compacted):
            await events(store, COMPACTED - 2)
        assert await store.update("/p/b", b"b3", expected=4) == HIGHEST + 1
        await store.compact(HIGHEST + 1)
        assert await events(store, HIGHEST) == [
            Event(EventType.UPDATED, "/p/b", HIGHEST + 1, b"b3", b"b2")
        ]
    finally:
        await store.close()


async def test_down_and_up_again_is_the_same_log(url: str) -> None:
    await migrate(url, "0001")
    await run(url, fill_first_release)
    before = await run(url, rows_of_first_release)
    assert await migrate(url, "head") == ("0001", sql_schema.HEAD)
    assert await migrate(url, "0001") == (sql_schema.HEAD, "0001")
    # What the event at the mark had replaced comes back as a row.
    log, live, compacted = before
    restored = (3, "/registry/p/b", False, 3, 0, b"b1", None)
    assert await run(url, rows_of_first_release) == (sorted([*log, restored]), live, compacted)
    assert await migrate(url, "head") == ("0001", sql_schema.HEAD)
    store = await connect(database_url=url)
    assert await store.create("/p/z", b"z") == HIGHEST + 1
    await store.close()
    await migrate(url, "-1")
    await migrate(url, "base")
    store = await connect(database_url=url)
    assert await store.list("/") == Page((), 1, 0)
    await store.close()


async def test_tables_of_a_newer_release_are_refused(url: str) -> None:
    await migrate(url, "head")

    def age(connection: Connection) -> None:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    await run(url, age)
    with pytest.raises(StorageError, match="has the tables of version 9999"):
        await connect(database_url=url)
    with pytest.raises(StorageError, match="version 9999"):
        await migrate(url, "0001")


async def test_the_newest_version_is_what_a_server_expects() -> None:
    versions = Path(__file__).parents[2] / "migrations" / "versions"
    numbers = [path.name[1:5] for path in versions.glob("v*.py")]
    assert max(numbers) == sql_schema.HEAD


async def test_servers_that_start_at_once_migrate_once(postgresql: PostgresServer) -> None:
    url = postgresql.database("at-once")
    await migrate(url, "0001")
    await run(url, fill_first_release)
    stores = await asyncio.gather(*(connect(database_url=url) for _ in range(4)))
    assert {await store.revision() for store in stores} == {HIGHEST}
    for store in stores:
        await store.close()
