"""The shared SQL engine: the log in PostgreSQL, for any number of servers.

NOTIFY wakes the other servers and carries nothing: what has been committed is read from the log. A
notification that is lost, or taken for one's own, costs a second and no event. A server that stops
in the middle of a transaction holds the log's lock for no longer than the database lets a session
be idle in one.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any

import asyncpg
import structlog
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from storage import retry, sql_reads, sql_schema
from storage.contract import NotSent, StorageError, Unavailable
from storage.sql_store import SqlStore, T, Work
from storage.sql_writes import Committed, Row

READERS = 8
WRITERS = 2
CONNECT = 5.0  # seconds to reach the server
TIMEOUT = 10.0  # seconds a statement may take
START = 30.0  # seconds to wait for a server that starts at the same time
CHECK = 10.0  # seconds after which a silent connection is asked whether it still lives
CHANNEL = "netpol_log"
MIGRATION_LOCK = 0x6E657470  # any number that all our servers agree on
SESSION = {
    "application_name": "netpol-apiserver",
    "idle_in_transaction_session_timeout": "5000",
    "statement_timeout": "10000",
}

logger = structlog.get_logger()


# All of a group in one round trip.
_APPEND = text(
    """
    WITH rows AS (
      SELECT * FROM unnest(
        CAST(:revision AS bigint[]), CAST(:key AS bytea[]), CAST(:value AS bytea[]),
        CAST(:created AS bigint[]), CAST(:previous AS bigint[])
      ) AS row (revision, key, value, created, previous)
    ), ends AS (
      SELECT DISTINCT ON (key) key, revision, value FROM rows ORDER BY key, revision DESC
    ), appended AS (
      INSERT INTO log (revision, key, value, created, previous) SELECT * FROM rows
    ), standing AS (
      INSERT INTO live (key, revision) SELECT key, revision FROM ends WHERE value IS NOT NULL
      ON CONFLICT (key) DO UPDATE SET revision = excluded.revision
    ), gone AS (
      DELETE FROM live USING ends WHERE live.key = ends.key AND ends.value IS NULL
    ), ahead AS (
      UPDATE state SET revision = :newest
    )
    SELECT pg_notify(:channel, '')
    """
)


class PostgresDatabase:
    """See `storage.sql_store.Database`."""

    name = "postgresql"
    shared = True

    def __init__(self, readers: AsyncEngine, writers: AsyncEngine, *, cut: float | None) -> None:
        self._engines = (readers, writers)
        self._cut = cut
        self._own: deque[int] = deque(maxlen=4 * WRITERS)  # backends that wrote for us
        self._single = readers.execution_options(isolation_level="AUTOCOMMIT")
        self._snapshot = readers.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        # A statement sees what was committed before it, and so what the lock waited for.
        self._writer = writers.execution_options(isolation_level="READ COMMITTED")
        self._listener: asyncio.Task[None] | None = None

    async def glance(self, work: Work[T]) -> T:
        with _translated(Unavailable):
            async with self._single.connect() as connection:
                return await connection.run_sync(work)

    async def reading(self, work: Work[T]) -> T:
        with _translated(Unavailable):
            async with self._snapshot.connect() as connection:
                return await connection.run_sync(work)

    async def writing(self, work: Work[T]) -> T:
        with _translated(NotSent):
            async with asyncio.timeout(self._cut):
                connection = await self._writer.connect()
            driver: Any = (await connection.get_raw_connection()).driver_connection
        try:
            with _translated(NotSent):
                if (backend := driver.get_server_pid()) not in self._own:
                    self._own.append(backend)
                with self._cutting(driver):
                    result = await connection.run_sync(work)
            with _translated(Unavailable), self._cutting(driver):
                await connection.commit()
            return result
        finally:
            with contextlib.suppress(*_FAILURES), self._cutting(driver):
                await connection.close()

    async def migrating(self, work: Work[T]) -> T:
        """A transaction in which the tables may change, for one process at a time."""

        def alone(connection: Connection) -> T:
            connection.execute(
                text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK}
            )
            return work(connection)

        return await self.writing(alone)

    def append(self, connection: Connection, committed: Committed) -> None:
        columns = zip(Row._fields, map(list, zip(*committed.rows, strict=True)), strict=True)
        end = {"newest": committed.revision, "channel": CHANNEL}
        connection.execute(_APPEND, dict(columns) | end)

    def listen(self, store: SqlStore) -> None:
        """Have the store look whenever another server has committed."""
        self._listener = asyncio.create_task(self._listen(store), name="postgresql listener")

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        for engine in self._engines:
            await engine.dispose()

    @contextlib.contextmanager
    def _cutting(self, driver: Any) -> Iterator[None]:
        """Cut the connection when a step of a write takes too long.

        Never cancel it: a commit that waits for its standby would be done without.
        """
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._cut, driver.terminate) if self._cut else None
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()

    def _hear(self, store: SqlStore, _: object, backend: int, *__: object) -> None:
        if backend not in self._own:
            store.look()

    async def _listen(self, store: SqlStore) -> None:
        while True:
            try:
                with _translated(Unavailable):
                    async with self._single.connect() as connection:
                        driver: Any = (await connection.get_raw_connection()).driver_connection
                        await driver.add_listener(CHANNEL, partial(self._hear, store))
                        store.look()
                        while True:
                            await asyncio.sleep(CHECK)
                            await connection.execute(text("SELECT 1"))
            except Exception as error:  # noqa: BLE001  or others' commits come late
                await retry.after(error, "cannot listen to postgresql")


async def open_postgresql(url: str) -> SqlStore:
    """Connect, bring the tables up to date, and follow the log.

    `StorageError` where the server is not there within half a minute, or refuses.
    """
    try:
        async with asyncio.timeout(START) as waiting:
            newest = await _started(url, waiting)
    except TimeoutError:
        shown = make_url(url).render_as_string()
        raise StorageError(f"{shown} does not answer; see the warnings above") from None
    database = open_database(url)
    store = SqlStore(database, revision=newest)
    database.listen(store)
    return store


def open_database(url: str, *, patient: bool = False) -> PostgresDatabase:
    """The database of the URL, with whatever tables it has; nothing is asked of it yet.

    A `patient` one lets a statement take whatever time it needs.
    """
    session = {**SESSION, "statement_timeout": "0"} if patient else SESSION
    limit = None if patient else TIMEOUT

    def engine(size: int, limit: float | None) -> AsyncEngine:
        arguments = {"timeout": CONNECT, "command_timeout": limit, "server_settings": session}
        return create_async_engine(
            make_url(url).set(drivername="postgresql+asyncpg"),
            pool_size=size,
            max_overflow=0,
            pool_timeout=TIMEOUT,
            connect_args=arguments,
        )

    try:
        readers, writers = engine(READERS + 1, limit), engine(WRITERS, None)
    except ArgumentError as error:
        raise StorageError(f"cannot read --database-url: {error}") from error
    return PostgresDatabase(readers, writers, cut=limit)


async def _started(url: str, waiting: asyncio.Timeout) -> int:
    """The newest revision, once the tables are as they should be; that may take its time."""
    database = open_database(url, patient=True)
    loop = asyncio.get_running_loop()
    try:
        while True:
            try:
                await database.glance(_check_durability)
                waiting.reschedule(None)
                try:
                    await database.migrating(sql_schema.bring_up)
                finally:
                    waiting.reschedule(loop.time() + START)
                return await database.glance(sql_reads.newest)
            except Unavailable as error:
                await retry.after(error, "postgresql not reachable")
    finally:
        await database.close()


def _check_durability(connection: Connection) -> None:
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        if connection.scalar(text(f"SHOW {setting}")) in ("off", "local"):
            logger.warning("postgresql may lose what it has acknowledged", setting=setting)


# What SQLAlchemy does not wrap comes from asyncpg while it connects.
_FAILURES = (SQLAlchemyError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


@contextlib.contextmanager
def _translated(kind: type[Unavailable]) -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        raise kind(f"postgresql: {_first_line(error)}") from error


def _first_line(error: Any) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
