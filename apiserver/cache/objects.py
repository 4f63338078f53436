"""The live objects of one resource in key order, with the ring of what happened to them.

The cacher feeds it storage events; lists and watches read it. Pure.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from apiserver.api.resource import Resource
from apiserver.cache.blocks import Blocks, Run
from apiserver.cache.index import Index
from apiserver.cache.object import Change, Object
from apiserver.cache.ring import Ring
from apiserver.cache.session import View
from storage import Event, Record


class Objects:
    """The state of one resource at `revision`, and its recent history.

    `stale` once another state took its place. `broken` says of stored objects that do not decode
    why. `audiences` belong to who watches, by prefix.
    """

    def __init__(self, *, resource: Resource, revision: int, capacity: int, limit: int) -> None:
        self.resource = resource
        self.revision = revision
        self.stale = False
        self.ring: Ring[Change] = Ring(floor=revision, capacity=capacity, limit=limit)
        self.broken: dict[str, str] = {}
        self.audiences: dict[str, Any] = {}
        self._blocks = Blocks()
        self._index = Index()
        self._waiting: dict[Callable[[], None], None] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def count(self, prefix: str) -> int:
        """How many there are under a storage prefix."""
        return len(self._blocks.under(prefix))

    def load(self, record: Record) -> None:
        """Take over a record of the first list."""
        self._replace(None, self._take(record.key, record.value, record.revision))

    def apply(self, event: Event) -> None:
        """Fold one storage event in. A value that does not decode stands for no object."""
        self.broken.pop(event.key, None)
        before = self._blocks.get(event.key)
        now = None if event.value is None else self._take(event.key, event.value, event.revision)
        self._replace(before, now)
        if before is not None or now is not None:
            self.ring.append(Change(event.revision, now, before))

    def past(self, event: Event) -> Change | None:
        """What an event of the store's history was to who saw it; nothing is changed here."""
        before = now = None
        if event.previous is not None:
            with contextlib.suppress(ValueError):
                before = Object.decode(self.resource, event.key, event.previous, event.revision)
        if event.value is not None:
            with contextlib.suppress(ValueError):
                now = Object.decode(self.resource, event.key, event.value, event.revision)
        return None if before is None and now is None else Change(event.revision, now, before)

    def get(self, key: str) -> Object | None:
        return self._blocks.get(key)

    def candidates(self, view: View) -> list[Object]:
        """Objects in key order, with all that the view shows among them; few if it can be."""
        if view.fields.name and (found := self._blocks.get(view.prefix + view.fields.name)):
            return [found]
        wanted = (*view.labels.wanted, *view.fields.wanted)
        counted = [(self._index.count(*pairs), *pairs) for pairs in wanted]
        if counted:
            count, name, values = min(counted, key=lambda option: option[0])
            # A sort and a look-up for each key cost some four times a step along the blocks.
            if 4 * count < self._blocks.about(view.prefix):
                keys = self._index.find(name, values)
                inside = sorted(key for key in keys if key.startswith(view.prefix))
                return [self._blocks[key] for key in inside]
        return self.under(view.prefix)

    def under(self, prefix: str) -> list[Object]:
        """The objects under a prefix in key order."""
        return self._blocks.under(prefix)

    def runs(self, prefix: str) -> Sequence[Run]:
        """All objects under a prefix as JSON in pieces."""
        return self._blocks.runs(prefix)

    def on_change(self, call: Callable[[], None]) -> None:
        """Call something when there are new events, or the state is stale; once."""
        self._waiting[call] = None

    def forget(self, call: Callable[[], None]) -> None:
        """Do not call it any more."""
        self._waiting.pop(call, None)

    def wake(self) -> None:
        """There are new events, or the state is stale."""
        woken, self._waiting = self._waiting, {}
        for call in woken:
            call()

    def _replace(self, before: Object | None, now: Object | None) -> None:
        if now is not None:
            self._blocks.put(now)
        elif before is not None:
            self._blocks.pop(before.key)
        if before is not None and now is not None and before.pairs == now.pairs:
            return
        if before is not None:
            for pairs in before.pairs:
                self._index.remove(before.key, pairs)
        if now is not None:
            for pairs in now.pairs:
                self._index.add(now.key, pairs)

    def _take(self, key: str, value: bytes, revision: int) -> Object | None:
        try:
            return Object.decode(self.resource, key, value, revision)
        except ValueError as error:
            self.broken[key] = str(error)
            return None
