"""What is particular to the embedded engine."""

import asyncio
from pathlib import Path

import pytest

from storage.sql_store import T, Work
from storage.sqlite import SqliteDatabase, open_sqlite


async def test_what_was_read_is_known_before_its_writer_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a commit and its acknowledgement readers may see it; no later read may go back."""
    store = await open_sqlite(tmp_path / "log.sqlite")
    first = await store.create("/a", b"1")
    write = SqliteDatabase.writing
    committed, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(self: SqliteDatabase, work: Work[T]) -> T:
        result = await write(self, work)
        committed.set()
        await go_on.wait()
        return result

    monkeypatch.setattr(SqliteDatabase, "writing", slowly)
    writing = asyncio.create_task(store.delete("/a", expected=first))
    await committed.wait()
    assert await store.get("/a") == (None, first + 1)
    assert await store.revision() == first + 1
    assert not writing.done()
    go_on.set()
    assert await writing == first + 1
    await store.close()
