"""The log over a SQL database; `storage.sqlite` and `storage.postgresql` open one each.

Writes go through `Groups`, so concurrent callers share a transaction. Every transaction takes the
log's lock first, which gives revisions in the order of the commits and without a gap, whatever
number of servers write. All watches read the newest events from memory.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar

import structlog
from sqlalchemy import Connection

from storage import retry, sql_reads, sql_writes
from storage.contract import (
    Batch,
    Compacted,
    Condition,
    Event,
    Page,
    Record,
    StorageError,
    TooLarge,
)
from storage.groups import Groups
from storage.joined import Joined
from storage.recent import Recent
from storage.sql_writes import Committed, Write
from storage.wakeup import Wakeup

BATCH = 1_000  # events a watch is given at once
SWEEP = 1_000  # revisions that a transaction of a compaction looks at; writes go on in between
POLL = 1.0  # seconds after which the commits of others are looked for, whether announced or not
VALUE_LIMIT = 8 << 20  # bytes; far above what the server lets through

logger = structlog.get_logger()


T = TypeVar("T")
Work = Callable[[Connection], T]


class Database(Protocol):
    """What the store needs of an engine. Its failures come as `Unavailable`.

    `shared` says whether other processes write too. Work is done with a connection: `glance` is for
    a single statement that reads, `reading` has one snapshot for several, `writing` is a
    transaction, durable when it returns; it raises `NotSent` where it is void.
    """

    name: str
    shared: bool

    async def glance(self, work: Work[T]) -> T: ...

    async def reading(self, work: Work[T]) -> T: ...

    async def writing(self, work: Work[T]) -> T: ...

    def append(self, connection: Connection, committed: Committed) -> None:
        """Insert the rows, keep `live` and `state` up to them, and tell the other servers."""

    async def close(self) -> None: ...


class SqlStore:
    """See `storage.contract.Store`. `revision` is the newest when the store is opened."""

    def __init__(self, database: Database, *, revision: int) -> None:
        self.name = database.name
        self._database = database
        self._recent = Recent(revision)
        self._moved = Wakeup()
        self._news = asyncio.Event()
        self._shown = revision  # the newest that a caller has seen anything of
        self._lives = 1  # how many logs there have been here: one that went back is another
        self._closed = False
        self._newest = Joined(self._read_newest, name=f"{self.name} revision")
        self._groups = Groups(self._commit, name=f"{self.name} writes")
        self._follower = asyncio.create_task(self._follow(), name=f"{self.name} follower")

    async def revision(self) -> int:
        if self._database.shared:
            return await retry.reading(self._newest)
        # A commit can be read before it is known here that it is done.
        return max(self._shown, self._recent.end)

    async def get(self, key: str) -> tuple[Record | None, int]:
        work = partial(sql_reads.get, key=key)
        found, revision = await retry.reading(lambda: self._database.glance(work))
        self._show(revision)
        return found, revision

    async def list(
        self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0
    ) -> Page:
        work = partial(sql_reads.page, prefix=prefix, after=after, limit=limit, revision=revision)
        page = await retry.reading(lambda: self._database.reading(work))
        self._show(page.revision)
        return page

    async def create(self, key: str, value: bytes, *, given: Condition | None = None) -> int:
        return await self._write(Write(key, value, 0, given))

    async def update(self, key: str, value: bytes, *, expected: int) -> int:
        return await self._write(Write(key, value, expected))

    async def delete(self, key: str, *, expected: int) -> int:
        return await self._write(Write(key, None, expected))

    async def watch(self, prefix: str, *, after: int) -> AsyncGenerator[Batch, None]:
        reached, first, life = after, True, self._lives
        while not self._closed:
            if life != self._lives:
                raise Compacted(self._recent.end)
            current = reached >= self._recent.floor
            if current:
                newest, complete = self._recent.after(reached, BATCH)
                found = tuple(event for event in newest if event.key.startswith(prefix))
            else:
                found, complete = await retry.reading(partial(self._stored, prefix, reached))
                self._show(complete)
            if found or first or complete > reached:
                first = False
                reached = max(reached, complete)
                yield Batch(found, complete)
            elif current:
                await self._moved.wait()

    async def tell_progress(self, *, force: bool = False) -> bool:
        return True

    async def compact(self, revision: int) -> None:
        swept, mark = await self._database.writing(partial(sql_writes.mark, revision=revision))
        self._recent.forget(mark - 1)
        # The event at the mark can still be watched, and with it goes what it replaced.
        for after in range(swept, mark - 1, SWEEP):
            until = min(after + SWEEP, mark - 1)
            await self._database.writing(partial(sql_writes.sweep, after=after, until=until))

    def look(self) -> None:
        """Others may have committed."""
        self._news.set()

    def counted(self) -> Mapping[str, int]:
        return {"commits": self._groups.commits, "writes": self._groups.writes}

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._groups.close()
        self._follower.cancel()
        await asyncio.gather(self._follower, return_exceptions=True)
        self._moved.wake()
        await self._database.close()

    async def _write(self, write: Write) -> int:
        if write.value is not None and len(write.value) > VALUE_LIMIT:
            size = len(write.value)
            raise TooLarge(f"a value of {size} bytes is above the limit of {VALUE_LIMIT}")
        return await self._groups.write(write)

    async def _commit(self, group: Sequence[Write]) -> Sequence[int | StorageError]:
        known = self._recent.end
        try:
            work = partial(sql_writes.commit, group=group, append=self._database.append)
            result = await retry.unsent(lambda: self._database.writing(work))
        except Exception:  # whatever it is: the commit may be done
            self._news.set()
            raise
        self._show(result.revision)
        if result.before < known:
            self._begin_anew(known, result.before)
        if result.before == self._recent.end:
            self._take_in(result.events, result.revision)
        else:
            self._news.set()
        return result.outcomes

    async def _follow(self) -> None:
        """Take in what others commit, and what became of a commit that failed."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL if self._database.shared else None):
                    await self._news.wait()
            self._news.clear()
            try:
                await self._catch_up()
            except Exception as error:  # noqa: BLE001  every watch depends on this task
                await retry.after(error, "log not readable")
                self._news.set()

    async def _catch_up(self) -> None:
        while True:
            before = self._recent.end
            try:
                found, complete = await self._stored("", before)
            except Compacted:
                self._recent.restart(await self._read_newest())
                self._moved.wake()
                continue
            if complete < before:
                self._begin_anew(before, complete)
                continue
            self._take_in(found, complete)
            if len(found) < BATCH:
                return

    def _begin_anew(self, known: int, now: int) -> None:
        """The log has gone back: the database has lost what it had acknowledged."""
        logger.error("the log has gone back; all begin anew", known=known, now=now)
        self._lives += 1
        self._recent.restart(now)
        self._moved.wake()

    def _take_in(self, events: Sequence[Event], complete: int) -> None:
        if complete > self._recent.end:
            self._recent.extend(events, complete)
            self._moved.wake()

    def _show(self, revision: int) -> None:
        self._shown = max(self._shown, revision)

    async def _stored(self, prefix: str, after: int) -> tuple[tuple[Event, ...], int]:
        work = partial(sql_reads.events, prefix=prefix, after=after, limit=BATCH)
        return await self._database.glance(work)

    async def _read_newest(self) -> int:
        return await self._database.glance(sql_reads.newest)
