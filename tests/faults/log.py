"""The one log of all writes, put together from what watchers were told. Pure.

Each write of the store has a revision of its own, so their order needs no search: the revisions
are it. The other parts of the checker hold everything else against this log.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tests.faults.history import Item, Said, Stream

EVENTS = (Said.ADDED, Said.MODIFIED, Said.DELETED)


@dataclass(frozen=True, slots=True)
class Entry:
    """One write: what it did, and the object as it told it."""

    said: Said
    item: Item

    @property
    def revision(self) -> int:
        return self.item.revision

    @property
    def left(self) -> Item | None:
        """What stands at the key from here on."""
        return None if self.said is Said.DELETED else self.item

    def __str__(self) -> str:
        return f"{self.said} {self.item.key} {self.item.value} at {self.revision}"


class Log:
    """The entries in the order of their revisions, from an empty collection on."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = tuple(sorted(entries, key=lambda entry: entry.revision))
        self._keys: dict[str, list[Entry]] = {}
        for entry in self.entries:
            self._keys.setdefault(entry.item.key, []).append(entry)
        self._at = {entry.revision: entry for entry in self.entries}

    def at(self, revision: int) -> Entry | None:
        return self._at.get(revision)

    def position(self, revision: int) -> int:
        """Where in `entries` the first above that revision is."""
        return _after(self.entries, revision)

    def states(self, key: str, since: int) -> Iterator[tuple[int, Item | None]]:
        """What stood at the key at `since`, and whatever replaced it later, with from when on."""
        entries = self._keys.get(key, [])
        position = _after(entries, since)
        yield since, entries[position - 1].left if position else None
        for entry in entries[position:]:
            yield entry.revision, entry.left

    def moment(self, key: str, since: int, true: Callable[[Item | None], bool]) -> int | None:
        """The first revision from `since` on at which that is true of what stands at the key."""
        return next((at for at, item in self.states(key, since) if true(item)), None)


def build(streams: Iterable[Stream], end: int) -> Log:
    """The union of what watchers without a selector were told; who differs is found later."""
    entries: dict[int, Entry] = {}
    for stream in streams:
        if stream.colour:
            continue
        for told in stream.told:
            if told.item is not None and told.said in EVENTS and told.revision <= end:
                entries.setdefault(told.revision, Entry(told.said, told.item))
    return Log(entries.values())


def _after(entries: Sequence[Entry], revision: int) -> int:
    return bisect_right(entries, revision, key=lambda entry: entry.revision)
