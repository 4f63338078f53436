"""What is read from a SQL log: the newest state, a state of the past, and events.

`SqlStore` calls these with a connection that sees one snapshot. The state at a revision is the live
rows that have not changed since, and for each key that has, the row that its first change replaced:
reading the past costs what has changed since, and needs no index over history.
"""

from collections.abc import Sequence
from heapq import merge
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    func,
    select,
)

from storage.contract import (
    Compacted,
    Event,
    EventType,
    FutureRevision,
    Page,
    Record,
)
from storage.sql_tables import live, log, state

_later = log.alias("later")
_replaced = log.alias("replaced")


def newest(connection: Connection) -> int:
    """The newest revision."""
    return int(connection.execute(_NEWEST).scalar_one())


def get(connection: Connection, key: str) -> tuple[Record | None, int]:
    """The live record of a key and the newest revision, in one statement."""
    row = connection.execute(_GET, {"key": key.encode()}).one()
    record = None if row.value is None else Record(key, row.value, row.revision, row.created)
    return record, row.newest


def page(connection: Connection, prefix: str, *, after: str, limit: int, revision: int) -> Page:
    """See `Store.list`. Several statements: the connection must keep its snapshot."""
    now = connection.execute(select(state)).one()
    if revision > now.revision:
        raise FutureRevision(now.revision)
    if revision and revision < now.compacted:
        raise Compacted(now.compacted)
    at = revision or now.revision
    sources = [_standing(at if at != now.revision else 0)]
    if at != now.revision:
        sources.append(_changed_since(at))
    found: list[Sequence[Any]] = []
    left = 0
    for source in sources:
        inside = _inside(source.selected_columns.key, prefix, after)
        query = source.where(*inside).order_by(source.selected_columns.key)
        rows = connection.execute(query.limit(limit) if limit else query).all()
        found.append(rows)
        if limit and len(rows) == limit:
            beyond = source.where(*inside, source.selected_columns.key > rows[-1].key)
            counting = select(func.count()).select_from(beyond.subquery())
            left += connection.execute(counting).scalar_one()
    rows = list(merge(*found, key=lambda row: row.key)) if len(found) > 1 else found[0]
    taken = rows[:limit] if limit else rows
    records = tuple(Record(r.key.decode(), r.value, r.revision, r.created) for r in taken)
    return Page(records, at, left + len(rows) - len(taken))


def events(
    connection: Connection, prefix: str, *, after: int, limit: int
) -> tuple[tuple[Event, ...], int]:
    """Up to `limit` events above a revision, and the revision to which they are complete."""
    inside = [log.c.revision > after, *_inside(log.c.key, prefix, "")]
    query = (
        select(
            state.c.revision.label("newest"),
            state.c.compacted,
            log.c.revision,
            log.c.key,
            log.c.value,
            log.c.created,
            _replaced.c.value.label("old"),
        )
        # One statement, so that the mark and the rows are of one snapshot.
        .select_from(state)
        .outerjoin(log, and_(*inside))
        .outerjoin(_replaced, _replaced.c.revision == log.c.previous)
        .order_by(log.c.revision)
        .limit(limit)
    )
    rows = connection.execute(query).all()
    if after < rows[0].compacted - 1:
        raise Compacted(rows[0].compacted)
    found = tuple(_event(row) for row in rows if row.revision is not None)
    return found, found[-1].revision if len(found) == limit else rows[0].newest


def _event(row: Any) -> Event:
    if row.value is None:
        kind = EventType.DELETED
    else:
        kind = EventType.CREATED if row.created == row.revision else EventType.UPDATED
    return Event(kind, row.key.decode(), row.revision, row.value, row.old)


def _standing(at: int) -> Select[Any]:
    """The live rows; with a revision, those that have not changed since."""
    query = select(live.c.key, log.c.value, log.c.revision, log.c.created).join(
        log, log.c.revision == live.c.revision
    )
    return query.where(live.c.revision <= at) if at else query


def _changed_since(at: int) -> Select[Any]:
    """The rows that stood at a revision and have been replaced since."""
    return (
        select(_later.c.key, _replaced.c.value, _replaced.c.revision, _replaced.c.created)
        .join(_replaced, _replaced.c.revision == _later.c.previous)
        .where(_later.c.revision > at, _later.c.previous <= at)
    )


def _inside(key: Any, prefix: str, after: str) -> list[ColumnElement[bool]]:
    """The keys that start with a prefix and sort after another key."""
    low = prefix.encode()
    begin = key > after.encode() if after >= prefix and after else key >= low
    # Behind the prefix are only valid UTF-8 bytes, which are below 0xff.
    return [begin, key < low + b"\xff"]


_NEWEST = select(state.c.revision)
_GET = (
    select(
        state.c.revision.label("newest"),
        log.c.revision,
        log.c.created,
        log.c.value,
    )
    .select_from(state)
    .outerjoin(live, live.c.key == bindparam("key"))
    .outerjoin(log, log.c.revision == live.c.revision)
)
