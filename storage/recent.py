"""The newest events of a SQL log in memory, so that a watch that keeps up asks no database. Pure.

The store appends what it commits, and what it reads of the commits of others; all of its watches
read from here, and from the database only while they are further behind.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import islice

from storage.contract import Event

CAPACITY = 4_096  # events
LIMIT = 8 << 20  # bytes of their values


class Recent:
    """All events above `floor` up to `end`, which is what the log is known to be complete to."""

    def __init__(self, revision: int, *, capacity: int = CAPACITY, limit: int = LIMIT) -> None:
        self.floor = self.end = revision
        self._capacity = capacity
        self._limit = limit
        self._events: deque[Event] = deque()
        self._bytes = 0

    def extend(self, events: Sequence[Event], complete: int) -> None:
        """Append what comes after `end`, without a gap; what is known already is passed over."""
        for event in events:
            if event.revision > self.end:
                self._events.append(event)
                self._bytes += event.size
        self.end = max(self.end, complete)
        while len(self._events) > self._capacity or self._bytes > self._limit:
            self._drop()

    def forget(self, revision: int) -> None:
        """Events up to a revision are no longer to be told."""
        while self._events and self._events[0].revision <= revision:
            self._drop()
        self.floor = max(self.floor, min(revision, self.end))

    def restart(self, revision: int) -> None:
        """Begin anew after a gap."""
        self._events.clear()
        self._bytes = 0
        self.floor = self.end = revision

    def after(self, revision: int, count: int) -> tuple[list[Event], int]:
        """Up to `count` events above a revision that is no lower than `floor`, and how far."""
        if revision >= self.end:
            return [], self.end
        start = bisect_right(self._events, revision, key=lambda event: event.revision)
        found = list(islice(self._events, start, start + count))
        return found, found[-1].revision if len(found) == count else self.end

    def _drop(self) -> None:
        gone = self._events.popleft()
        self._bytes -= gone.size
        self.floor = gone.revision
