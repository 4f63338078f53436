"""The contract in plain Python: the executable specification of the other engines.

Tests hold the engines equal to it. It keeps the log in memory and forgets it at the end.
"""

from bisect import bisect_left, bisect_right
from collections.abc import AsyncGenerator, Mapping

from storage.contract import (
    Batch,
    Compacted,
    Condition,
    Conflict,
    Event,
    EventType,
    FutureRevision,
    KeyExists,
    Page,
    Record,
)
from storage.wakeup import Wakeup

BATCH = 1_000  # events a batch may hold


class MemoryStore:
    """A list of all events from the compaction on, and the state before; reads compute the rest."""

    name = "memory"

    def __init__(self) -> None:
        # Revision 1 is the empty store, as in etcd: revision 0 never names a state.
        self._revision = 1
        self._compacted = 1
        self._before: dict[str, Record] = {}
        self._events: list[Event] = []
        self._live: dict[str, Record] = {}
        self._moved = Wakeup()
        self._closed = False

    async def revision(self) -> int:
        return self._revision

    async def get(self, key: str) -> tuple[Record | None, int]:
        return self._live.get(key), self._revision

    async def list(
        self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0
    ) -> Page:
        state = self._live if not revision else self._state_at(revision)
        start = after.encode()
        keys = sorted(
            (key for key in state if key.startswith(prefix) and key.encode() > start),
            key=str.encode,
        )
        taken = keys[:limit] if limit else keys
        records = tuple(state[key] for key in taken)
        return Page(records, revision or self._revision, len(keys) - len(taken))

    async def create(self, key: str, value: bytes, *, given: Condition | None = None) -> int:
        if given is not None:
            self._expect(given.key, given.revision)
        if (current := self._live.get(key)) is not None:
            raise KeyExists(current)
        return self._write(EventType.CREATED, key, value, None)

    async def update(self, key: str, value: bytes, *, expected: int) -> int:
        return self._write(EventType.UPDATED, key, value, self._expect(key, expected))

    async def delete(self, key: str, *, expected: int) -> int:
        return self._write(EventType.DELETED, key, None, self._expect(key, expected))

    async def watch(self, prefix: str, *, after: int) -> AsyncGenerator[Batch, None]:
        reached, first = after, True
        while not self._closed:
            if reached < self._compacted - 1:
                raise Compacted(self._compacted)
            start = bisect_right(self._events, reached, key=lambda event: event.revision)
            found = self._events[start : start + BATCH]
            complete = found[-1].revision if len(found) == BATCH else self._revision
            if found or first:
                first = False
                reached = max(reached, complete)
                yield Batch(tuple(e for e in found if e.key.startswith(prefix)), complete)
                continue
            await self._moved.wait()

    async def tell_progress(self, *, force: bool = False) -> bool:
        return True

    async def compact(self, revision: int) -> None:
        if revision > self._revision:
            raise FutureRevision(self._revision)
        self._compacted = max(self._compacted, revision)
        kept = bisect_left(self._events, self._compacted, key=lambda event: event.revision)
        for event in self._events[:kept]:
            _fold(self._before, event)
        del self._events[:kept]

    def counted(self) -> Mapping[str, int]:
        return {}

    async def close(self) -> None:
        self._closed = True
        self._moved.wake()

    def _expect(self, key: str, expected: int) -> Record:
        current = self._live.get(key)
        if current is None or current.revision != expected:
            raise Conflict(key, current)
        return current

    def _state_at(self, revision: int) -> dict[str, Record]:
        if revision > self._revision:
            raise FutureRevision(self._revision)
        if revision < self._compacted:
            raise Compacted(self._compacted)
        state = dict(self._before)
        for event in self._events:
            if event.revision > revision:
                break
            _fold(state, event)
        return state

    def _write(self, kind: EventType, key: str, value: bytes | None, old: Record | None) -> int:
        self._revision += 1
        event = Event(kind, key, self._revision, value, old.value if old else None)
        self._events.append(event)
        _fold(self._live, event)
        self._moved.wake()
        return event.revision


def _fold(state: dict[str, Record], event: Event) -> None:
    if event.value is None:
        del state[event.key]
        return
    old = state.get(event.key)
    created = old.created if old else event.revision
    state[event.key] = Record(event.key, event.value, event.revision, created)
