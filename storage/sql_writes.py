"""Writes on a SQL log: a group is decided one by one, and what holds is inserted at once.

`SqlStore` calls it within one transaction. What decides is pure; the statements are few, whatever
the size of the group, because each is a round trip.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, delete, select, update

from storage.contract import (
    Condition,
    Conflict,
    Event,
    EventType,
    FutureRevision,
    KeyExists,
    Record,
    StorageError,
)
from storage.sql_tables import live, log, state


@dataclass(frozen=True, slots=True)
class Write:
    """What one caller wants: `value` None deletes, `expected` 0 creates."""

    key: str
    value: bytes | None
    expected: int
    given: Condition | None = None


class Row(NamedTuple):
    """A row of the log, to be appended."""

    revision: int
    key: bytes
    value: bytes | None
    created: int
    previous: int


@dataclass(frozen=True, slots=True)
class Committed:
    """What becomes of a group: an outcome for each write, the rows and events of those that hold.

    They follow `before` without a gap.
    """

    outcomes: tuple[int | StorageError, ...]
    rows: tuple[Row, ...]
    events: tuple[Event, ...]
    before: int

    @property
    def revision(self) -> int:
        return self.before + len(self.events)

    @property
    def ends(self) -> Mapping[bytes, int]:
        """The last revision of each key that was written; 0 where it was deleted."""
        return {row.key: row.revision if row.value is not None else 0 for row in self.rows}


Append = Callable[[Connection, Committed], None]


def commit(connection: Connection, group: Sequence[Write], append: Append) -> Committed:
    """Take the log's lock, then write what holds. `append` is the engine's own way to insert."""
    before: int = connection.execute(_LOCK).scalar_one()
    names = {write.key for write in group}
    names |= {write.given.key for write in group if write.given is not None}
    # A statement of its own: it must see what was committed while the lock was waited for.
    rows = connection.execute(_STANDING, {"keys": _padded(names)})
    standing = {
        (name := row.key.decode()): Record(name, row.value, row.revision, row.created)
        for row in rows
    }
    result = decide(group, standing, before)
    if result.rows:
        append(connection, result)
    return result


def mark(connection: Connection, revision: int) -> tuple[int, int]:
    """Refuse states before a revision from now on; up to where rows are removed, and the mark."""
    now = connection.execute(select(state).with_for_update()).one()
    if revision > now.revision:
        raise FutureRevision(now.revision)
    compacted = max(revision, now.compacted)
    connection.execute(update(state).values(compacted=compacted))
    return now.swept, compacted


def sweep(connection: Connection, after: int, until: int) -> None:
    """Remove the rows that a range of revisions replaced, and its deletions."""
    inside = (log.c.revision > after, log.c.revision <= until)
    replaced = select(log.c.previous).where(*inside)
    connection.execute(delete(log).where(log.c.revision.in_(replaced)))
    connection.execute(delete(log).where(*inside, log.c.value.is_(None)))
    connection.execute(update(state).where(state.c.swept < until).values(swept=until))


def decide(group: Sequence[Write], standing: Mapping[str, Record], before: int) -> Committed:
    """Each write in turn on top of the ones before; what fails its check changes nothing."""
    now = dict(standing)
    outcomes: list[int | StorageError] = []
    events: list[Event] = []
    rows: list[Row] = []
    for write in group:
        current = now.get(write.key)
        if refused := _refusal(write, current, now):
            outcomes.append(refused)
            continue
        revision = before + len(rows) + 1
        created, previous, old = revision, 0, None
        if current is not None:
            created, previous, old = current.created, current.revision, current.value
        if write.value is None:
            kind = EventType.DELETED
            del now[write.key]
        else:
            kind = EventType.UPDATED if current else EventType.CREATED
            now[write.key] = Record(write.key, write.value, revision, created)
        rows.append(Row(revision, write.key.encode(), write.value, created, previous))
        events.append(Event(kind, write.key, revision, write.value, old))
        outcomes.append(revision)
    return Committed(tuple(outcomes), tuple(rows), tuple(events), before)


def _refusal(
    write: Write, current: Record | None, now: Mapping[str, Record]
) -> StorageError | None:
    if write.given is not None:
        other = now.get(write.given.key)
        if other is None or other.revision != write.given.revision:
            return Conflict(write.given.key, other)
    if not write.expected:
        return KeyExists(current) if current is not None else None
    if current is None or current.revision != write.expected:
        return Conflict(write.key, current)
    return None


def _padded(names: Iterable[str]) -> list[bytes]:
    """The keys, some twice: few lengths make few statements, which the driver keeps prepared."""
    keys = [name.encode() for name in names]
    return keys + [keys[-1]] * ((1 << (len(keys) - 1).bit_length()) - len(keys))


_LOCK = select(state.c.revision).with_for_update()
_STANDING = (
    select(live.c.key, live.c.revision, log.c.created, log.c.value)
    .join(log, log.c.revision == live.c.revision)
    .where(live.c.key.in_(bindparam("keys", expanding=True)))
)
