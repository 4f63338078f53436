"""A bounded, ordered window over the latest events of one resource.

The cacher appends; each watch keeps a position of its own and reads from there, so a watcher costs
no queue. One that falls behind the window is told so (`Overrun`) and ends: nobody waits for it.
Pure; positions are absolute and never reused.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """What the ring needs of an event: its revision and its weight in bytes."""

    @property
    def revision(self) -> int: ...

    @property
    def size(self) -> int: ...


E = TypeVar("E", bound=Sized)


class Expired(Exception):
    """The revision lies before the window; `oldest` is the first that a watch may start from."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"the oldest revision kept is {oldest}")
        self.oldest = oldest


class Overrun(Exception):
    """The reader's next event has left the window."""


class Ring(Generic[E]):
    """Events above `floor`, without gap, at most `capacity` of them and `limit` bytes.

    The newest event is always kept, whatever its size. `end` is the position that the next gets.
    """

    def __init__(self, *, floor: int, capacity: int, limit: int) -> None:
        self.floor = floor
        self.capacity = capacity
        self.limit = limit
        self.end = 0
        self._events: deque[E] = deque()
        self._first = 0
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._events)

    def append(self, event: E) -> None:
        self._events.append(event)
        self.end += 1
        self._bytes += event.size
        while len(self._events) > 1 and (
            len(self._events) > self.capacity or self._bytes > self.limit
        ):
            gone = self._events.popleft()
            self._bytes -= gone.size
            self._first += 1
            self.floor = gone.revision

    def after(self, revision: int) -> int:
        """The position of the first event above `revision`. `Expired` if some have gone."""
        if revision < self.floor:
            raise Expired(self.floor)
        if not self._events or revision >= self._events[-1].revision:
            return self.end
        return self._first + bisect_right(self._events, revision, key=lambda e: e.revision)

    @property
    def first(self) -> int:
        """The position of the oldest event that is kept."""
        return self._first

    def read(self, position: int, *, count: int, limit: int) -> list[E]:
        """Events from `position` on: up to `count`, and no more than `limit` bytes if several.

        `Overrun` if the position has left the window.
        """
        start = position - self._first
        if start < 0:
            raise Overrun
        found: list[E] = []
        size = 0
        for event in self._from(start, count):
            size += event.size
            if found and size > limit:
                break
            found.append(event)
        return found

    def _from(self, start: int, count: int) -> Iterable[E]:
        # A deque is fast at its ends only; a reader that keeps up stands at the right one.
        if len(self._events) - start <= count:
            newest = islice(reversed(self._events), len(self._events) - start)
            return reversed(list(newest))
        return islice(self._events, start, start + count)
