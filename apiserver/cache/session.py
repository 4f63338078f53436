"""One watch as a pure state machine: changes of the cache in, watch events out.

The watch handler feeds it what the ring gives and writes what it returns; encoding, sockets and
clocks stay outside. A selector turns a change into what that client sees: an object that enters
its view is ADDED, one that leaves is DELETED with its last content and the change's revision.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from apiserver.api.selectors import FieldSelector, LabelSelector
from apiserver.cache.object import Change, Object


@dataclass(frozen=True, slots=True)
class View:
    """What one client may see of a resource: a key prefix and its selectors."""

    prefix: str
    labels: LabelSelector
    fields: FieldSelector

    @property
    def everything(self) -> bool:
        """Whether nothing but the prefix restricts the view."""
        return self.labels.empty and self.fields.empty

    def shows(self, item: Object | None) -> bool:
        if item is None or not item.key.startswith(self.prefix):
            return False
        if not self.labels.empty and not self.labels.matches(item.labels):
            return False
        if self.fields.empty:
            return True
        if self.fields.identity and not self.fields.identifies(*item.identity):
            return False
        if self.fields.indexed and not self.fields.finds(item.fields):
            return False
        return not self.fields.content or self.fields.matches(item.parse())


@dataclass(frozen=True, slots=True)
class Seen:
    """One watch event: its type, and the object as it is to be sent."""

    type: str
    item: Object
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class Lines:
    """Watch events as JSON lines, apart and joined, with the position that they lead to."""

    lines: Sequence[bytes]
    joined: bytes
    end: int

    @classmethod
    def of(cls, lines: Sequence[bytes], end: int) -> "Lines":
        return cls(lines, lines[0] if len(lines) == 1 else b"".join(lines), end)


def line(event: Seen) -> bytes:
    """One event as a line of JSON; one of the ring is encoded once for all watchers."""
    if event.change is not None:
        return event.change.line(event.type, event.item)
    return b'{"type":"%s","object":%s}\n' % (event.type.encode(), event.item.data)


def initial(items: Iterable[Object]) -> Iterator[Seen]:
    """The synthetic events that give a new watch its starting state."""
    return (Seen("ADDED", item) for item in items)


def seen(view: View, changes: Iterable[Change]) -> Iterator[Seen]:
    """What the client sees of the changes, in their order."""
    for change in changes:
        before, now = view.shows(change.before), view.shows(change.object)
        if now and change.object is not None:
            yield Seen("MODIFIED" if before else "ADDED", change.object, change)
        elif before and (left := change.left) is not None:
            yield Seen("DELETED", left, change)
