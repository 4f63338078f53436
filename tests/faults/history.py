"""What clients asked and were told, in the order in which it happened: what the checker judges.

The recorder is the only clock: it counts, in the one thread that all clients of a test run in. An
operation that returned at a smaller tick than another was invoked at did end before it.
"""

import itertools
from dataclasses import dataclass, field
from enum import StrEnum

COLOURS = ("red", "blue")


class Kind(StrEnum):
    """What a client asked for."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    GET = "get"
    LIST = "list"


WRITES = frozenset({Kind.CREATE, Kind.UPDATE, Kind.DELETE})


class Outcome(StrEnum):
    """What became of it. UNKNOWN: it may have taken effect, or may yet. REFUSED: it has not."""

    DONE = "done"
    ABSENT = "absent"
    CONFLICT = "conflict"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Item:
    """An object as it was told. `value` is the mark of the write that made it so.

    In a DELETED event the revision is the deletion's, and the value the last before it.
    """

    key: str
    value: str
    uid: str
    revision: int

    @property
    def colour(self) -> str:
        return self.value.rpartition("-")[2]


@dataclass(frozen=True, slots=True)
class Operation:
    """One request. `value` is unique to it; `expected` is the revision it swaps, 0 for any.

    `found` is the object that a get, create or update was answered with, or those of a list at
    `revision`; an acknowledged delete names the incarnation that it ended in `uid`.
    """

    client: str
    kind: Kind
    key: str
    invoked: int
    returned: int
    outcome: Outcome
    value: str = ""
    expected: int = 0
    revision: int = 0
    uid: str = ""
    found: tuple[Item, ...] = ()

    def __str__(self) -> str:
        asked = f" {self.value}" if self.value else ""
        swap = f" of {self.expected}" if self.expected else ""
        return f"{self.client}: {self.kind} {self.key}{asked}{swap} [{self.invoked}]"


class Said(StrEnum):
    """What a watcher was told. LISTED: it starts after that revision, from a list of its own.

    EXPIRED: 410, the server has forgotten the revision asked for.
    """

    LISTED = "LISTED"
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True)
class Told:
    """One line of a watch. `item` comes with events only."""

    tick: int
    said: Said
    revision: int
    item: Item | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """All that one watcher was told, over all its connections; `colour` is its selector or empty.

    `may_expire`: this watcher stayed away for longer than history is kept.
    """

    watcher: str
    told: tuple[Told, ...]
    colour: str = ""
    may_expire: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """A whole run. All that is at or below `end` can be expected to have been told."""

    operations: tuple[Operation, ...]
    streams: tuple[Stream, ...]
    end: int


@dataclass(slots=True)
class Recorder:
    """Counts the ticks and keeps the operations."""

    operations: list[Operation] = field(default_factory=list)
    _ticks: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def tick(self) -> int:
        return next(self._ticks)

    def count(self, *outcomes: Outcome) -> int:
        return sum(operation.outcome in outcomes for operation in self.operations)
