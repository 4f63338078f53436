"""The embedded engine: the log in one SQLite file, for one server.

Readers use connections of their own and see whole transactions only (WAL). A lock beside the file
keeps a second process out; it ends with the process, however that ends.
"""

import asyncio
import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, bindparam, create_engine, delete, event, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError

from storage import sql_reads, sql_schema
from storage.contract import NotSent, StorageError, Unavailable
from storage.sql_store import SqlStore, T, Work
from storage.sql_tables import live, log, state
from storage.sql_writes import Committed

READERS = 4  # threads
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
    """See `storage.sql_store.Database`. Transactions are begun by it, not by the driver.

    A file blocks whoever uses it, so all is done in threads; one of them writes.
    """

    name = "sqlite"
    shared = False
    append = staticmethod(append)

    def __init__(self, engine: Engine, lock: int) -> None:
        self._engine = engine
        self._lock = lock
        self._closed = False
        self._readers = ThreadPoolExecutor(READERS, "sqlite reader")
        self._writer = ThreadPoolExecutor(1, "sqlite writer")

    async def glance(self, work: Work[T]) -> T:
        return await self._in(self._readers, partial(self._read, work))

    async def reading(self, work: Work[T]) -> T:
        return await self._in(self._readers, partial(self._read, work, begin="BEGIN"))

    async def writing(self, work: Work[T]) -> T:
        return await self._in(self._writer, partial(self._write, work))

    async def migrating(self, work: Work[T]) -> T:
        """A transaction in which the tables may change."""
        return await self.writing(work)

    async def close(self) -> None:
        self._closed = True
        for pool in (self._writer, self._readers):
            await asyncio.to_thread(pool.shutdown)
        self._engine.dispose()
        os.close(self._lock)

    async def _in(self, pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        if self._closed:
            raise Unavailable("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(pool, call)

    def _read(self, work: Work[T], *, begin: str = "") -> T:
        try:
            with self._engine.connect() as connection:
                if begin:
                    connection.exec_driver_sql(begin)
                return work(connection)
        except SQLAlchemyError as error:
            raise Unavailable(f"sqlite: {error}") from error

    def _write(self, work: Work[T]) -> T:
        failure: type[Unavailable] = NotSent
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                result = work(connection)
                failure = Unavailable
                connection.commit()
                return result
        except SQLAlchemyError as error:
            raise failure(f"sqlite: {error}") from error


async def open_sqlite(path: Path) -> SqlStore:
    """Open or create the file and bring its tables up to date.

    `StorageError` where the file is in use by another process or cannot be opened.
    """
    database = open_database(path)
    try:
        await database.migrating(sql_schema.bring_up)
        newest = await database.glance(sql_reads.newest)
    except BaseException as error:
        await database.close()
        if isinstance(error, Unavailable | OSError):
            raise StorageError(f"cannot open {path}: {error}") from error
        raise
    return SqlStore(database, revision=newest)


def open_database(path: Path) -> SqliteDatabase:
    """The file, for this process alone, with whatever tables it has."""
    path = path.resolve()  # under whatever name it is known
    lock = hold(path)
    engine = create_engine(
        URL.create("sqlite", database=str(path)), pool_size=READERS + 1, max_overflow=0
    )
    event.listen(engine, "connect", _configure)
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


def _configure(connection: Any, record: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
