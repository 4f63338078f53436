"""The contract of a revisioned key-value log, which every engine keeps.

The API server's watch cache and registry call it; they know no engine. One suite,
`tests/storage/test_contract.py`, holds all engines to it. Values are opaque bytes, never empty.

One log: every write of the whole store gets one revision, a positive integer larger than all
before it, also across restarts. Revision 0 never names a state.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable


class StorageError(Exception):
    """The root of what an engine raises."""


class KeyExists(StorageError):
    """A create met a live key. `current` is what stands there."""

    def __init__(self, current: "Record") -> None:
        super().__init__(f"key {current.key!r} exists at revision {current.revision}")
        self.current = current


class Conflict(StorageError):
    """An update or delete expected another revision. `current` is what stands there, or None."""

    def __init__(self, key: str, current: "Record | None") -> None:
        at = f"is at revision {current.revision}" if current else "does not exist"
        super().__init__(f"key {key!r} {at}")
        self.key = key
        self.current = current


class Compacted(StorageError):
    """The revision asked for is no longer kept; `revision` is the oldest that can be read."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"revision is compacted; the oldest kept is {revision}")
        self.revision = revision


class FutureRevision(StorageError):
    """The revision asked for has not happened; `current` is the newest."""

    def __init__(self, current: int) -> None:
        super().__init__(f"revision is in the future; the newest is {current}")
        self.current = current


class TooLarge(StorageError):
    """The engine takes no value of this size."""


class Unavailable(StorageError):
    """The engine cannot answer now. Whether a write took effect is then unknown."""


class NotSent(Unavailable):
    """The same, where a write is known to have had no effect."""


class Record(NamedTuple):
    """A live key: its value, the revision that wrote it, and the one that created it."""

    key: str
    value: bytes
    revision: int
    created: int


class Condition(NamedTuple):
    """Another key that must still stand as `revision` wrote it when a create takes effect."""

    key: str
    revision: int


class Page(NamedTuple):
    """Keys in bytewise order, as they all stood at `revision`.

    `remaining` counts the keys of the prefix after the last record: 0 ends the list.
    """

    records: tuple[Record, ...]
    revision: int
    remaining: int


class EventType(StrEnum):
    """What a write did to its key."""

    CREATED = "CREATED"
    UPDATED = "UPDATED"
    DELETED = "DELETED"


class Event(NamedTuple):
    """One write. `value` is None for DELETED; `previous` is None for CREATED.

    `revision` is the write's own, also for a deletion.
    """

    type: EventType
    key: str
    revision: int
    value: bytes | None
    previous: bytes | None

    @property
    def size(self) -> int:
        """Bytes of its values."""
        return len(self.value or b"") + len(self.previous or b"")


class Batch(NamedTuple):
    """Events in the order of their revisions; every event up to `revision` has now been given.

    A batch without events only says how far the log is known to be complete.
    """

    events: tuple[Event, ...]
    revision: int


class Store(Protocol):
    """A revisioned key-value log.

    Every method may raise `Unavailable`. A prefix or key is text; keys sort by their UTF-8 bytes.
    """

    async def revision(self) -> int:
        """The newest revision, linearizable: no smaller than any write acknowledged before."""

    async def get(self, key: str) -> tuple[Record | None, int]:
        """The live record, linearizable, and the revision at which it was read."""

    async def list(
        self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0
    ) -> Page:
        """The live keys that start with `prefix` and sort after `after` (a whole key).

        `limit` 0 means all. `revision` 0 means the newest, linearizable; else exactly that state:
        `Compacted` or `FutureRevision` where it cannot be read.
        """

    async def create(self, key: str, value: bytes, *, given: Condition | None = None) -> int:
        """Write a key that does not exist; its revision. `KeyExists`, `TooLarge`.

        `Conflict` with the condition's key where `given` does not hold.
        """

    async def update(self, key: str, value: bytes, *, expected: int) -> int:
        """Replace the value that `expected` wrote; the new revision. `Conflict`, `TooLarge`."""

    async def delete(self, key: str, *, expected: int) -> int:
        """Delete the value that `expected` wrote; the deletion's own revision. `Conflict`."""

    def watch(self, prefix: str, *, after: int) -> AsyncGenerator[Batch, None]:
        """All writes under `prefix` with a revision above `after`, without gap or duplicate.

        The first batch comes at once, with what has happened already (or with no event). The
        engine reconnects by itself, and resumes after what it gave last. It raises `Compacted`
        where history is gone; a revision in the future is waited for. `aclose()` of the iterator
        ends the watch and frees its resources.
        """

    async def tell_progress(self, *, force: bool = False) -> bool:
        """Have every open watch tell soon how far it is complete, if it is: to the newest revision.

        False where the engine cannot be trusted to: what a watch has not told must then be read
        from the store. With `force` it is made to, at the price of a write.
        """

    async def compact(self, revision: int) -> None:
        """Forget states before `revision`: reads and watches from before it raise `Compacted`.

        Compacting at or before an earlier compaction does nothing. `FutureRevision`.
        """

    async def close(self) -> None:
        """Free everything; watches end."""

    def counted(self) -> Mapping[str, int]:
        """What the engine counts of its own work since it was opened, by name."""

    @property
    def name(self) -> str:
        """The engine, as flags and metrics call it: `etcd`, `sqlite`, `postgresql`, `memory`."""


@runtime_checkable
class Renewable(Protocol):
    """A store whose credentials may be replaced while it is open."""

    @property
    def files(self) -> Sequence[Path]:
        """Where they are, if there are any."""

    def renew(self) -> None:
        """Read them again; nobody who reads, writes or watches is to notice.

        `OSError`, `ValueError`: then all stays as it was.
        """
