"""The embedded engine: an append-only log in one SQLite file, through SQLAlchemy Core.

One writer task applies whatever writes are waiting in one transaction, so concurrent writers share
one fsync, and each still gets its own outcome. Readers use connections of their own and see whole
transactions only (WAL). A lock beside the file keeps a second process out; it ends with the
process, however that ends.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, delete, event, func, insert, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from storage.contract import (
    Batch,
    Compacted,
    Conflict,
    Event,
    EventType,
    FutureRevision,
    KeyExists,
    Page,
    Record,
    StorageError,
    TooLarge,
    Unavailable,
)
from storage.sql_tables import live, log, state

BATCH = 1_000  # events a watch reads at once
GROUP = 256  # writes that share a transaction at the most
QUEUE = 4_096  # writes that may wait; further callers wait for room
VALUE_LIMIT = 8 << 20  # bytes; far above what the server lets through
FIRST = 1  # the revision of the empty store: 0 never names a state


@dataclass(slots=True)
class _Write:
    """A write that waits for the writer: `expected` is 0 for a create."""

    key: bytes
    value: bytes | None
    expected: int
    outcome: asyncio.Future[int] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


async def open_sqlite(url: str) -> "SqliteStore":
    """Open or create the file of the URL, bring its tables up to date, and start the writer.

    `StorageError` where the file is in use by another process or cannot be opened.
    """
    path = make_url(url).database
    if not path or path == ":memory:":
        raise StorageError(f"{url!r} names no file; use memory: for a store that forgets")
    lock = _lock(Path(path))
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=8, max_overflow=0)
    event.listen(engine.sync_engine, "connect", _configure)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_migrate)
            await connection.commit()
            newest = await connection.scalar(_highest())
            compacted = await connection.scalar(select(state.c.compacted))
    except (SQLAlchemyError, OSError) as error:
        await engine.dispose()
        os.close(lock)
        raise StorageError(f"cannot open {path}: {error}") from error
    return SqliteStore(
        engine=engine, lock=lock, revision=max(newest or 0, FIRST), compacted=compacted or FIRST
    )


class SqliteStore:
    """See `storage.contract.Store`. `_revision` is what has been committed."""

    def __init__(self, *, engine: AsyncEngine, lock: int, revision: int, compacted: int) -> None:
        self._engine = engine
        self._lock = lock
        self._revision = revision
        self._compacted = compacted
        self._queue: asyncio.Queue[_Write] = asyncio.Queue(QUEUE)
        self._moved = asyncio.Condition()
        self._closed = False
        self._writer = asyncio.create_task(self._write_all(), name="sqlite writer")

    async def revision(self) -> int:
        # One process writes, and it says so only after the commit.
        return self._revision

    async def get(self, key: str) -> tuple[Record | None, int]:
        async with self._reading() as connection:
            revision = await self._newest(connection)
            found = await connection.execute(select(live).where(live.c.key == key.encode()))
            row = found.one_or_none()
        record = Record(key, row.value, row.revision, row.created) if row else None
        return record, revision

    async def list(
        self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0
    ) -> Page:
        async with self._reading() as connection:
            newest = await self._newest(connection)
            compacted = await connection.scalar(select(state.c.compacted)) or FIRST
            if revision > newest:
                raise FutureRevision(newest)
            if revision and revision < compacted:
                raise Compacted(compacted)
            at = revision if revision and revision != newest else 0
            source = _state_at(at).subquery() if at else live
            low, high = prefix.encode(), _prefix_end(prefix.encode())
            inside = [source.c.key >= low]
            if high:
                inside.append(source.c.key < high)
            if after:
                inside.append(source.c.key > after.encode())
            query = (
                select(source.c.key, source.c.value, source.c.revision, source.c.created)
                .where(*inside)
                .order_by(source.c.key)
            )
            rows = (await connection.execute(query.limit(limit) if limit else query)).all()
            remaining = 0
            if limit and len(rows) == limit:
                counting = select(func.count()).where(*inside, source.c.key > rows[-1].key)
                remaining = await connection.scalar(counting) or 0
        records = tuple(Record(r.key.decode(), r.value, r.revision, r.created) for r in rows)
        return Page(records, revision or newest, remaining)

    async def create(self, key: str, value: bytes) -> int:
        return await self._write(key, value, 0)

    async def update(self, key: str, value: bytes, *, expected: int) -> int:
        return await self._write(key, value, expected)

    async def delete(self, key: str, *, expected: int) -> int:
        return await self._write(key, None, expected)

    async def watch(self, prefix: str, *, after: int) -> AsyncGenerator[Batch, None]:
        reached, first = after, True
        low, high = prefix.encode(), _prefix_end(prefix.encode())
        while not self._closed:
            async with self._reading() as connection:
                newest = await self._newest(connection)
                compacted = await connection.scalar(select(state.c.compacted)) or FIRST
                if reached < compacted - 1:
                    raise Compacted(compacted)
                inside = [log.c.revision > reached, log.c.key >= low]
                if high:
                    inside.append(log.c.key < high)
                query = select(log).where(*inside).order_by(log.c.revision).limit(BATCH)
                rows = (await connection.execute(query)).all()
            complete = rows[-1].revision if len(rows) == BATCH else newest
            if rows or first or complete > reached:
                first = False
                reached = max(reached, complete)
                yield Batch(tuple(map(_event, rows)), complete)
                continue
            async with self._moved:
                while self._revision <= reached and not self._closed:
                    await self._moved.wait()

    async def compact(self, revision: int) -> None:
        if revision > self._revision:
            raise FutureRevision(self._revision)
        async with self._transaction() as connection:
            await connection.execute(
                update(state).where(state.c.compacted < revision).values(compacted=revision)
            )
            # What a row replaced is gone for good; the newest row of a live key stays, for a
            # later compare-and-swap and for reads at `revision`.
            later = log.alias()
            replaced = (
                select(later.c.revision)
                .where(later.c.key == log.c.key)
                .where(later.c.revision > log.c.revision, later.c.revision <= revision)
                .exists()
            )
            await connection.execute(
                delete(log).where(log.c.revision < revision, replaced | log.c.deleted)
            )
        self._compacted = max(self._compacted, revision)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)
        while not self._queue.empty():
            waiting = self._queue.get_nowait()
            if not waiting.outcome.done():
                waiting.outcome.set_exception(Unavailable("the store is closed"))
        async with self._moved:
            self._moved.notify_all()
        await self._engine.dispose()
        os.close(self._lock)

    async def _write(self, key: str, value: bytes | None, expected: int) -> int:
        if value is not None and len(value) > VALUE_LIMIT:
            raise TooLarge(f"a value of {len(value)} bytes is above the limit of {VALUE_LIMIT}")
        if self._closed:
            raise Unavailable("the store is closed")
        write = _Write(key.encode(), value, expected)
        await self._queue.put(write)
        return await write.outcome

    async def _write_all(self) -> None:
        """The one writer: take what waits, commit it together, then tell everyone."""
        while True:
            group = [await self._queue.get()]
            while len(group) < GROUP and not self._queue.empty():
                group.append(self._queue.get_nowait())
            try:
                outcomes = await self._commit(group)
            except asyncio.CancelledError:
                _fail(group, Unavailable("the store was closed during the write"))
                raise
            except Exception as error:  # noqa: BLE001  the writer outlives every failed write
                _fail(group, Unavailable(str(error)))
                continue
            committed = [outcome for outcome in outcomes if isinstance(outcome, int)]
            if committed:
                self._revision = committed[-1]
            for write, outcome in zip(group, outcomes, strict=True):
                if write.outcome.done():
                    continue  # the caller has gone; the write stands
                if isinstance(outcome, int):
                    write.outcome.set_result(outcome)
                else:
                    write.outcome.set_exception(outcome)
            if committed:
                async with self._moved:
                    self._moved.notify_all()

    async def _commit(self, group: Sequence[_Write]) -> Sequence[int | StorageError]:
        async with self._transaction() as connection:
            return await connection.run_sync(_apply, group)

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncGenerator[AsyncConnection, None]:
        """One consistent snapshot; nothing is written."""
        try:
            async with self._engine.connect() as connection:
                await connection.exec_driver_sql("BEGIN")
                yield connection
        except SQLAlchemyError as error:
            raise Unavailable(str(error)) from error

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncGenerator[AsyncConnection, None]:
        async with self._engine.connect() as connection:
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            await connection.commit()

    async def _newest(self, connection: AsyncConnection) -> int:
        """The newest revision of the connection's snapshot, also when its row is compacted."""
        return max(await connection.scalar(_highest()) or 0, FIRST)


def _highest() -> Any:
    return select(func.max(log.c.revision))


def _apply(connection: Connection, group: Sequence[_Write]) -> Sequence[int | StorageError]:
    """Each write in turn on top of the ones before; what fails its check changes nothing."""
    return [_apply_one(connection, write) for write in group]


def _apply_one(connection: Connection, write: _Write) -> int | StorageError:
    row = connection.execute(select(live).where(live.c.key == write.key)).one_or_none()
    name = write.key.decode()
    current = Record(name, row.value, row.revision, row.created) if row else None
    if not write.expected and current is not None:
        return KeyExists(current)
    if write.expected and (current is None or current.revision != write.expected):
        return Conflict(name, current)
    previous = current.revision if current else _last_revision(connection, write.key)
    inserted = connection.execute(
        insert(log).values(
            key=write.key,
            deleted=write.value is None,
            created=current.created if current else 0,
            previous=previous,
            value=write.value,
            old_value=current.value if current else None,
        )
    )
    (revision,) = inserted.inserted_primary_key or (0,)
    if write.value is None:
        connection.execute(delete(live).where(live.c.key == write.key))
    elif current is None:
        connection.execute(update(log).where(log.c.revision == revision).values(created=revision))
        connection.execute(
            insert(live).values(
                key=write.key, revision=revision, created=revision, value=write.value
            )
        )
    else:
        connection.execute(
            update(live).where(live.c.key == write.key).values(revision=revision, value=write.value)
        )
    return revision


def _last_revision(connection: Connection, key: bytes) -> int:
    """What a create stands on: the key's deletion, or nothing."""
    newest = select(func.max(log.c.revision)).where(log.c.key == key)
    return connection.scalar(newest) or 0


def _state_at(revision: int) -> Any:
    """The rows that were live at a revision: the newest of each key up to it."""
    newest = (
        select(func.max(log.c.revision).label("revision"))
        .where(log.c.revision <= revision)
        .group_by(log.c.key)
        .subquery()
    )
    return select(log.c.key, log.c.value, log.c.revision, log.c.created).where(
        log.c.revision.in_(select(newest.c.revision)), ~log.c.deleted
    )


def _event(row: Any) -> Event:
    if row.deleted:
        kind = EventType.DELETED
    else:
        kind = EventType.CREATED if row.created == row.revision else EventType.UPDATED
    return Event(kind, row.key.decode(), row.revision, row.value, row.old_value)


def _prefix_end(prefix: bytes) -> bytes:
    """The first key after all that start with a prefix; empty where there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b""


def _fail(group: list[_Write], error: StorageError) -> None:
    for write in group:
        if not write.outcome.done():
            write.outcome.set_exception(error)


def _lock(path: Path) -> int:
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
    """Durable at every commit; readers never block the writer. Transactions are begun by us."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _migrate(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", "migrations:")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
