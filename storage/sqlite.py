"""The embedded engine: the log in one SQLite file, for one server.

Readers use connections of their own and see whole transactions only (WAL). A lock beside the file
keeps a second process out; it ends with the process, however that ends.
"""

import contextlib
import fcntl
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, bindparam, delete, event, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from storage import sql_reads, sql_schema
from storage.contract import NotSent, StorageError, Unavailable
from storage.sql_store import SqlStore
from storage.sql_tables import live, log, state
from storage.sql_writes import Committed

CONNECTIONS = 8  # a thread each
# Durable at every commit; readers never block the writer.
PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "busy_timeout=10000",
    "journal_size_limit=67108864",
)


def append(connection: Connection, committed: Committed) -> None:
    """See `sql_writes.commit`."""
    connection.execute(_APPEND, [row._asdict() for row in committed.rows])
    stands = [{"key": key, "revision": end} for key, end in committed.ends.items() if end]
    if stands:
        connection.execute(_STAND, stands)
    if gone := [{"gone": key} for key, end in committed.ends.items() if not end]:
        connection.execute(_GO, gone)
    connection.execute(_ADVANCE, {"newest": committed.revision})


_APPEND = insert(log)
_STANDS = insert(live)
_STAND = _STANDS.on_conflict_do_update(
    index_elements=["key"], set_={"revision": _STANDS.excluded.revision}
)
_GO = delete(live).where(live.c.key == bindparam("gone"))
_ADVANCE = update(state).values(revision=bindparam("newest"))


class SqliteDatabase:
    """See `storage.sql_store.Database`. Transactions are begun by it, not by the driver."""

    name = "sqlite"
    shared = False
    append = staticmethod(append)

    def __init__(self, engine: AsyncEngine, lock: int) -> None:
        self._engine = engine
        self._lock = lock

    @contextlib.asynccontextmanager
    async def glance(self) -> AsyncGenerator[AsyncConnection, None]:
        with _unavailable():
            async with self._engine.connect() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncConnection, None]:
        async with self.glance() as connection:
            await connection.exec_driver_sql("BEGIN")
            yield connection

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncGenerator[AsyncConnection, None]:
        async with self.glance() as connection:
            try:
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
            except SQLAlchemyError as error:
                raise NotSent(f"sqlite: {error}") from error
            await connection.commit()

    def migrating(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A transaction in which the tables may change."""
        return self.writing()

    async def close(self) -> None:
        await self._engine.dispose()
        os.close(self._lock)


async def open_sqlite(path: Path) -> SqlStore:
    """Open or create the file and bring its tables up to date.

    `StorageError` where the file is in use by another process or cannot be opened.
    """
    database = open_database(path)
    try:
        async with database.migrating() as connection:
            await connection.run_sync(sql_schema.bring_up)
            newest = await sql_reads.newest(connection)
    except BaseException as error:
        await database.close()
        if isinstance(error, Unavailable | OSError):
            raise StorageError(f"cannot open {path}: {error}") from error
        raise
    return SqlStore(database, revision=newest)


def open_database(path: Path) -> SqliteDatabase:
    """The file, for this process alone, with whatever tables it has."""
    lock = hold(path)
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        pool_size=CONNECTIONS,
        max_overflow=0,
    )
    event.listen(engine.sync_engine, "connect", _configure)
    return SqliteDatabase(engine, lock)


def hold(path: Path) -> int:
    """Hold the file for this process; the kernel lets go of it when the process ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"cannot open {path}: {error}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise StorageError(
            f"{path} is in use by another process; SQLite takes one server at a time"
        ) from None
    return handle


@contextlib.contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise Unavailable(f"sqlite: {error}") from error


def _configure(connection: Any, record: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
