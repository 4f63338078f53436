"""One stored object as clients see it, and one change to it. Pure.

An object stays the bytes that were stored, with the resourceVersion spliced in; it is decoded once,
for what selectors ask for most.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from apiserver.api import encoding, selectors
from apiserver.api.resource import Resource

OVERHEAD = 512  # bytes that a change takes beside its objects, about


class Object(NamedTuple):
    """JSON with its resourceVersion. `fields` are the values of the resource's indexed paths.

    Such a path begins with a dot here, which no label does.
    """

    key: str
    revision: int
    data: bytes
    labels: Mapping[str, str]
    fields: Mapping[str, str]

    @classmethod
    def decode(cls, resource: Resource, key: str, value: bytes, revision: int) -> "Object":
        """`ValueError` where the stored bytes are no object with metadata."""
        parsed = orjson.loads(value)
        if not isinstance(parsed, dict) or not isinstance(parsed.get("metadata"), dict):
            raise ValueError("not an object with metadata")
        found = parsed["metadata"].get("labels")
        labels = found if isinstance(found, dict) else {}
        if not all(isinstance(value, str) for value in labels.values()):
            labels = {name: value for name, value in labels.items() if isinstance(value, str)}
        fields = {path: selectors.field(parsed, path[1:]) for path in resource.indexed}
        return cls(key, revision, encoding.with_revision(value, revision), labels, fields)

    @property
    def pairs(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """What it is indexed by."""
        return self.labels, self.fields

    @property
    def identity(self) -> tuple[str, str]:
        """Namespace and name. A cluster-scoped object's namespace is not asked for."""
        *_, namespace, name = self.key.split("/")
        return namespace, name

    @property
    def uid(self) -> object:
        """Which of the objects that had this name in turn it is."""
        return self.parse()["metadata"].get("uid")

    @property
    def terminating(self) -> bool:
        """Whether it waits for its finalizers to be deleted."""
        return b'"deletionTimestamp"' in self.data and bool(
            self.parse()["metadata"].get("deletionTimestamp")
        )

    def parse(self) -> dict[str, Any]:
        parsed: dict[str, Any] = orjson.loads(self.data)
        return parsed

    def at(self, revision: int) -> "Object":
        """The same content at another revision."""
        data = encoding.at_revision(self.data, revision)
        return Object(self.key, revision, data, self.labels, self.fields)


@dataclass(slots=True)
class Change:
    """One event. `object` is None for a deletion; `before` is None for a creation."""

    revision: int
    object: Object | None
    before: Object | None
    _lines: dict[str, bytes] = field(default_factory=dict)
    _left: Object | None = None

    @property
    def size(self) -> int:
        """Bytes that it holds in memory, with its line."""
        if self.object is None:
            return OVERHEAD + 2 * len(self.before.data if self.before else b"")
        return OVERHEAD + len(self.object.data) + len(self.before.data if self.before else b"")

    @property
    def left(self) -> Object | None:
        """What is told when the object leaves a view: its old content at the change's revision."""
        if self._left is None and self.before is not None:
            self._left = self.before.at(self.revision)
        return self._left

    def line(self, kind: str, item: Object) -> bytes:
        """The watch line, encoded once for all watchers."""
        line = self._lines.get(kind)
        if line is None:
            line = self._lines[kind] = b'{"type":"%s","object":%s}\n' % (kind.encode(), item.data)
        return line
