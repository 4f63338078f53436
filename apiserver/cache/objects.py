"""The live objects of one resource in key order, with the ring of what happened to them.

The cacher feeds it storage events; lists and watches read it. Pure. Objects stay the bytes that
were stored, with the resourceVersion spliced in: nothing here decodes a whole object but to find
its labels once, and selectors that ask for fields.
"""

from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from apiserver.api import encoding
from apiserver.api.resource import Resource
from apiserver.cache.ring import Ring
from storage import Event, EventType, Record

AFTER_SLASH = "0"  # the character that follows the slash, which ends every prefix
JOINED = 64 << 20  # bytes of lists that a resource keeps encoded
JOINED_FROM = 64 << 10  # bytes from which a list is kept: less is joined as fast as found


@dataclass(frozen=True, slots=True)
class Object:
    """A stored object as clients see it: JSON with its resourceVersion."""

    key: str
    revision: int
    data: bytes
    labels: Mapping[str, str]

    @classmethod
    def decode(cls, key: str, value: bytes, revision: int) -> "Object":
        """`ValueError` where the stored bytes are no object with metadata."""
        parsed = orjson.loads(value)
        if not isinstance(parsed, dict) or not isinstance(parsed.get("metadata"), dict):
            raise ValueError("not an object with metadata")
        found = parsed["metadata"].get("labels")
        labels = found if isinstance(found, dict) else {}
        return cls(key, revision, encoding.with_revision(value, revision), labels)

    @property
    def identity(self) -> tuple[str, str]:
        """Namespace and name. A cluster-scoped object's namespace is not asked for."""
        *_, namespace, name = self.key.split("/")
        return namespace, name

    def parse(self) -> dict[str, Any]:
        parsed: dict[str, Any] = orjson.loads(self.data)
        return parsed


@dataclass(slots=True)
class Change:
    """One event. `object` is None for a deletion; `previous` is None for a creation.

    `previous` carries the change's own revision, because that is what a client is told when an
    object leaves its view.
    """

    revision: int
    object: Object | None
    previous: Object | None
    _lines: dict[str, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(len(item.data) for item in (self.object, self.previous) if item) + 512

    def line(self, kind: str, item: Object) -> bytes:
        """The watch line, encoded once for all watchers."""
        line = self._lines.get(kind)
        if line is None:
            line = self._lines[kind] = b'{"type":"%s","object":%s}\n' % (kind.encode(), item.data)
        return line


class Objects:
    """The state of one resource at `revision`, and its recent history.

    `stale` once another state took its place. `audiences` belong to who watches, by prefix.
    """

    def __init__(self, *, resource: Resource, revision: int, capacity: int, limit: int) -> None:
        self.resource = resource
        self.revision = revision
        self.stale = False
        self.ring: Ring[Change] = Ring(floor=revision, capacity=capacity, limit=limit)
        self.broken: dict[str, str] = {}
        self.audiences: dict[str, Any] = {}
        self._keys: list[str] = []
        self._objects: dict[str, Object] = {}
        self._joined: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def load(self, record: Record) -> None:
        """Take over a record of the first list; records come in key order."""
        item = self._decode(record.key, record.value, record.revision)
        if item is not None:
            self._keys.append(record.key)
            self._objects[record.key] = item

    def apply(self, event: Event) -> None:
        """Fold one storage event in. A value that does not decode stands for no object."""
        for prefix in [known for known in self._joined if event.key.startswith(known)]:
            del self._joined[prefix]
        old = self._objects.get(event.key)
        new = None
        self.broken.pop(event.key, None)
        if event.type is not EventType.DELETED and event.value is not None:
            new = self._decode(event.key, event.value, event.revision)
        if new is not None:
            if old is None:
                insort(self._keys, event.key, key=str.encode)
            self._objects[event.key] = new
        elif old is not None:
            del self._objects[event.key]
            del self._keys[self._find(event.key)]
        if old is not None or new is not None:
            previous = None
            if old is not None and event.previous is not None:
                last = encoding.with_revision(event.previous, event.revision)
                previous = Object(old.key, event.revision, last, old.labels)
            self.ring.append(Change(event.revision, new, previous))

    def get(self, key: str) -> Object | None:
        return self._objects.get(key)

    def select(self, prefix: str, *, name: str = "") -> list[Object]:
        """The objects under a prefix in key order; with a name, just the one right below it."""
        if name and (found := self._objects.get(prefix + name)) is not None:
            return [found]
        first, last = self._find(prefix), self._find(prefix[:-1] + AFTER_SLASH)
        return [self._objects[key] for key in self._keys[first:last]]

    def joined(self, prefix: str) -> bytes:
        """The same as JSON without the brackets; if large, kept until one of them changes."""
        found = self._joined.get(prefix)
        if found is None:
            found = b",".join([item.data for item in self.select(prefix)])
            if len(found) >= JOINED_FROM:
                while self._joined and len(found) + sum(map(len, self._joined.values())) > JOINED:
                    del self._joined[next(iter(self._joined))]
                self._joined[prefix] = found
        return found

    def _find(self, key: str) -> int:
        return bisect_left(self._keys, key.encode(), key=str.encode)

    def _decode(self, key: str, value: bytes, revision: int) -> Object | None:
        try:
            return Object.decode(key, value, revision)
        except ValueError as error:
            self.broken[key] = str(error)
            return None
