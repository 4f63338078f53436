"""A group of writes on a SQL log: decide each in turn, then insert all that hold at once.

`SqlStore` calls it within one transaction. What decides is pure; the statements are few, whatever
the size of the group, because each is a round trip.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Connection,
    Executable,
    Table,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from storage.contract import (
    Condition,
    Conflict,
    Event,
    EventType,
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


@dataclass(frozen=True, slots=True)
class Committed:
    """What became of a group: an outcome for each write, the events of those that took effect.

    The events follow `before` without a gap.
    """

    outcomes: tuple[int | StorageError, ...]
    events: tuple[Event, ...]
    before: int

    @property
    def revision(self) -> int:
        return self.before + len(self.events)


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs in the statements: an insert that can replace, and a word to other servers."""

    upsert: Callable[[Table], Any]
    announce: Executable | None = None


def commit(connection: Connection, group: Sequence[Write], dialect: Dialect) -> Committed:
    """Take the log's lock, then write what holds."""
    before: int = connection.execute(_LOCK).scalar_one()
    names = {write.key for write in group}
    names |= {write.given.key for write in group if write.given is not None}
    rows = connection.execute(_STANDING, {"keys": _padded(names)})
    standing = {
        (name := row.key.decode()): Record(name, row.value, row.revision, row.created)
        for row in rows
    }
    result, replaced = decide(group, standing, before)
    if result.events:
        _insert(connection, result, replaced, dialect)
    return result


def decide(
    group: Sequence[Write], standing: Mapping[str, Record], before: int
) -> tuple[Committed, dict[int, Record]]:
    """Each write in turn on top of the ones before; what fails its check changes nothing.

    Also what each event replaced, by the event's revision.
    """
    now = dict(standing)
    replaced: dict[int, Record] = {}
    outcomes: list[int | StorageError] = []
    events: list[Event] = []
    for write in group:
        current = now.get(write.key)
        if refused := _refusal(write, current, now):
            outcomes.append(refused)
            continue
        revision = before + len(events) + 1
        if current is not None:
            replaced[revision] = current
        if write.value is None:
            kind = EventType.DELETED
            del now[write.key]
        else:
            kind = EventType.UPDATED if current else EventType.CREATED
            created = current.created if current else revision
            now[write.key] = Record(write.key, write.value, revision, created)
        old = current.value if current else None
        events.append(Event(kind, write.key, revision, write.value, old))
        outcomes.append(revision)
    return Committed(tuple(outcomes), tuple(events), before), replaced


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


def _insert(
    connection: Connection, result: Committed, replaced: Mapping[int, Record], dialect: Dialect
) -> None:
    rows, alive = [], {}
    for event in result.events:
        key, old = event.key.encode(), replaced.get(event.revision)
        rows.append(
            {
                "revision": event.revision,
                "key": key,
                "value": event.value,
                "created": old.created if old else event.revision,
                "previous": old.revision if old else 0,
            }
        )
        alive[key] = event.revision if event.value is not None else 0
    connection.execute(_APPEND, rows)
    stands = [{"key": key, "revision": revision} for key, revision in alive.items() if revision]
    if stands:
        row = dialect.upsert(live)
        changed = {"revision": row.excluded.revision}
        connection.execute(row.on_conflict_do_update(index_elements=["key"], set_=changed), stands)
    if gone := [{"gone": key} for key, revision in alive.items() if not revision]:
        connection.execute(_GONE, gone)
    connection.execute(_ADVANCE, {"newest": result.revision})
    if dialect.announce is not None:
        connection.execute(dialect.announce)


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
_APPEND = insert(log)
_GONE = delete(live).where(live.c.key == bindparam("gone"))
_ADVANCE = update(state).values(revision=bindparam("newest"))
