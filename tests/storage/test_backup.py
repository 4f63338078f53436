"""Copies of a SQLite store, and what comes back from them."""

import asyncio
import contextlib
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from storage import Compacted, Event, EventType, StorageError, Store, sqlite_backup
from storage.connect import connect
from storage.postgresql import open_database as open_postgresql_database
from tests.storage.postgres_server import PostgresServer

DOCS = Path(__file__).parents[2] / "docs"


def at(path: Path) -> str:
    return f"sqlite:///{path}"


async def state(store: Store) -> list[tuple[str, bytes]]:
    return [(record.key, record.value) for record in (await store.list("/")).records]


async def fill(store: Store) -> None:
    for name in ("c", "a", "b", "gone"):
        await store.create(f"/p/{name}", name.encode())
    records = {record.key: record.revision for record in (await store.list("/")).records}
    await store.update("/p/a", b"a2", expected=records["/p/a"])
    await store.delete("/p/gone", expected=records["/p/gone"])


async def test_a_store_is_copied_while_it_is_written(tmp_path: Path) -> None:
    store = await connect(database_url=at(tmp_path / "log"))
    await fill(store)
    copied = asyncio.Event()

    async def write() -> int:
        number = 0
        while not copied.is_set():
            number += 1
            await store.create(f"/q/{number:05}", b"x" * 1000)
        return number

    writing = asyncio.create_task(write())
    await asyncio.sleep(0.05)
    revision = await asyncio.to_thread(sqlite_backup.backup, tmp_path / "log", tmp_path / "copy")
    copied.set()
    assert await writing > 0
    await store.close()
    copy = await connect(database_url=at(tmp_path / "copy"))
    assert await copy.revision() == revision
    found = await state(copy)
    assert found[:3] == [("/p/a", b"a2"), ("/p/b", b"b"), ("/p/c", b"c")]
    # Every write up to the copy's revision, and none after it.
    assert [key for key, _ in found[3:]] == [f"/q/{n:05}" for n in range(1, len(found) - 2)]
    await copy.close()


async def test_S13_a_restored_store_goes_on_above_all_that_was_given(tmp_path: Path) -> None:
    store = await connect(database_url=at(tmp_path / "log"))
    await fill(store)
    before = await state(store)
    sqlite_backup.backup(tmp_path / "log", tmp_path / "copy")
    highest = await store.create("/p/later", b"later")
    await store.close()

    restored = sqlite_backup.restore(tmp_path / "copy", tmp_path / "log")
    store = await connect(database_url=at(tmp_path / "log"))
    page = await store.list("/")
    assert [(record.key, record.value) for record in page.records] == before
    assert min(record.revision for record in page.records) > highest
    assert len({record.revision for record in page.records}) == len(page.records)
    assert await store.revision() == page.revision == restored
    for lost in (2, highest, page.records[0].revision):
        with pytest.raises(Compacted):
            await anext(store.watch("/", after=lost))
    watch = store.watch("/", after=restored)
    (first,) = page.records[:1]
    written = await store.update(first.key, b"new", expected=first.revision)
    async with asyncio.timeout(5):
        while not (batch := await anext(watch)).events:
            pass
    assert batch.events == (Event(EventType.UPDATED, first.key, written, b"new", first.value),)
    await watch.aclose()
    await store.close()
    replaced = await connect(database_url=at(tmp_path / "log.replaced"))
    assert ("/p/later", b"later") in await state(replaced)
    await replaced.close()


async def test_a_lost_store_is_restored_far_above_its_copy(tmp_path: Path) -> None:
    store = await connect(database_url=at(tmp_path / "log"))
    await fill(store)
    copied = sqlite_backup.backup(tmp_path / "log", tmp_path / "copy")
    await store.close()
    restored = sqlite_backup.restore(tmp_path / "copy", tmp_path / "other")
    assert restored > copied + sqlite_backup.LOST
    store = await connect(database_url=at(tmp_path / "other"))
    assert await store.create("/p/new", b"1") == restored + 1
    await store.close()


async def test_a_copy_of_the_first_release_is_restored(tmp_path: Path) -> None:
    from storage.migrate import migrate

    store = await connect(database_url=at(tmp_path / "log"))
    await fill(store)
    before = await state(store)
    await store.close()
    await migrate(at(tmp_path / "log"), "0001")
    sqlite_backup.backup(tmp_path / "log", tmp_path / "copy")
    sqlite_backup.restore(tmp_path / "copy", tmp_path / "log")
    store = await connect(database_url=at(tmp_path / "log"))
    assert await state(store) == before
    await store.close()


async def test_what_cannot_be_copied_or_restored_is_refused(tmp_path: Path) -> None:
    store = await connect(database_url=at(tmp_path / "log"))
    sqlite_backup.backup(tmp_path / "log", tmp_path / "copy")
    with pytest.raises(StorageError, match="exists; a backup never replaces a file"):
        sqlite_backup.backup(tmp_path / "log", tmp_path / "copy")
    with pytest.raises(StorageError, match="does not exist"):
        sqlite_backup.backup(tmp_path / "none", tmp_path / "x")
    with pytest.raises(StorageError, match="in use by another process"):
        sqlite_backup.restore(tmp_path / "copy", tmp_path / "log")
    await store.close()
    (tmp_path / "text").write_text("no database, but long enough to look like one" * 100)
    sqlite3.connect(tmp_path / "foreign").execute("CREATE TABLE t (x)").connection.close()
    for name in ("text", "foreign"):
        with pytest.raises(StorageError, match=r"no store of networkpolicys|not a database"):
            sqlite_backup.restore(tmp_path / name, tmp_path / "log")
    with pytest.raises(StorageError, match="cannot tell which revisions"):
        sqlite_backup.restore(tmp_path / "copy", tmp_path / "text")
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock") == [
        "copy", "foreign", "log", "text",
    ]  # fmt: skip


async def test_a_store_that_another_program_has_open_is_not_replaced(tmp_path: Path) -> None:
    """Its `-wal` would be taken for that of the file in its place."""
    store = await connect(database_url=at(tmp_path / "log"))
    await fill(store)
    sqlite_backup.backup(tmp_path / "log", tmp_path / "copy")
    with contextlib.closing(sqlite3.connect(tmp_path / "log")) as other:
        reading = other.execute("SELECT key FROM log")
        assert reading.fetchone() is not None
        await store.create("/p/later", b"later")
        before = await state(store)
        await store.close()
        with pytest.raises(StorageError, match="is open in another program"):
            sqlite_backup.restore(tmp_path / "copy", tmp_path / "log")
    store = await connect(database_url=at(tmp_path / "log"))
    assert await state(store) == before
    await store.close()


async def test_every_file_that_is_replaced_is_kept(tmp_path: Path) -> None:
    store = await connect(database_url=at(tmp_path / "log"))
    await store.create("/p/first", b"1")
    sqlite_backup.backup(tmp_path / "log", tmp_path / "copy")
    await store.create("/p/second", b"2")
    await store.close()
    (tmp_path / "log").chmod(0o640)
    os.chown(tmp_path / "log", 12, 34)
    for _ in range(2):
        sqlite_backup.restore(tmp_path / "copy", tmp_path / "log")
    now = (tmp_path / "log").stat()
    assert (now.st_uid, now.st_gid, now.st_mode & 0o777) == (12, 34, 0o640)
    assert (tmp_path / "log.lock").stat().st_uid == 12
    for name, keys in (("replaced", ["first", "second"]), ("replaced-2", ["first"])):
        store = await connect(database_url=at(tmp_path / f"log.{name}"))
        assert [key for key, _ in await state(store)] == [f"/p/{key}" for key in keys]
        await store.close()


async def test_a_link_is_the_store_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "log")
    store = await connect(database_url=at(tmp_path / "log"))
    sqlite_backup.backup(tmp_path / "link", tmp_path / "copy")
    with pytest.raises(StorageError, match="in use by another process"):
        await connect(database_url=at(tmp_path / "link"))
    with pytest.raises(StorageError, match="in use by another process"):
        sqlite_backup.restore(tmp_path / "copy", tmp_path / "link")
    await store.close()
    restored = sqlite_backup.restore(tmp_path / "copy", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    store = await connect(database_url=at(tmp_path / "log"))
    assert await store.revision() == restored
    await store.close()


def test_an_operator_does_it_from_the_command_line(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "apiserver.main", *arguments, "--database-url", url]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run("migrate").stdout == "tables none -> 0002\n"
    assert run("migrate", "--to", "0001").stdout == "tables 0002 -> 0001\n"
    assert run("backup", f"{tmp_path}/copy").stdout == f"{tmp_path}/copy: revision 1\n"
    restored = run("restore", f"{tmp_path}/copy")
    assert restored.stdout == f"{tmp_path}/log: revision 2; clients list again\n"
    refused = run("backup", f"{tmp_path}/copy")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        f"netpol-apiserver: {tmp_path}/copy exists; a backup never replaces a file\n"
    )


async def test_a_postgresql_that_went_back_is_taken_above_what_was_seen(
    postgresql: PostgresServer,
) -> None:
    (statement,) = re.findall(r"```sql\n(.*?)```", (DOCS / "storage.md").read_text(), re.DOTALL)
    url = postgresql.database("went-back")
    store = await connect(database_url=url)
    await fill(store)
    seen, before = await store.revision(), await state(store)
    await store.close()
    database = open_postgresql_database(url)
    await database.writing(lambda connection: connection.execute(text(statement)).rowcount)
    await database.close()
    store = await connect(database_url=url)
    assert await store.revision() > seen + 999_999_999
    assert await state(store) == before
    with pytest.raises(Compacted):
        await anext(store.watch("/", after=seen))
    watch = store.watch("/", after=await store.revision())
    written = await store.create("/p/new", b"1")
    async with asyncio.timeout(5):
        while not (batch := await anext(watch)).events:
            pass
    assert [event.revision for event in batch.events] == [written]
    await watch.aclose()
    await store.close()
