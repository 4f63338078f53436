"""How far one watch of etcd is complete, and what it has to tell. Pure.

`storage.etcd` feeds it the responses of a stream, and what this process has committed itself: etcd
tells of that too, but at full load much later. What comes twice is told once.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from storage.contract import Batch, Event

# The oldest patch releases whose progress notifications never overtake events (etcd#15220,
# etcd#17507), by minor version; k8s.io/apiserver `pkg/storage/feature` asks for the same.
TRUSTED = {(3, 4): 31, (3, 5): 13}
MARK = b"\0progress"  # ends a key that is written to be watched, and holds nothing


def tells_progress(version: str) -> bool:
    """Whether the progress that a member of this version tells can be trusted."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        return False
    major, minor, patch = map(int, found.groups())
    return patch >= TRUSTED.get((major, minor), 0) and (major, minor) >= min(TRUSTED)


class Progression:
    """One watch on one stream, complete to `reached`.

    `own` has the latest events that this process has committed, by revision.
    """

    def __init__(
        self,
        reached: int,
        *,
        prefix: str,
        own: Mapping[int, Event],
        decode: Callable[[Any], Event | None],
        progress_trusted: bool,
    ) -> None:
        self.reached = reached
        self._prefix = prefix
        self._own = own
        self._decode = decode
        self._progress_trusted = progress_trusted
        self._fragments: list[Any] = []

    def take(self, response: Any) -> Batch | None:
        """What a response adds, None being no response; None where there is nothing to tell yet.

        A response that is too large for one message comes in fragments, and only with the last of
        them is its revision complete.
        """
        before, events = self.reached, []
        if response is not None:
            self._fragments += response.events
            if not response.fragment:
                found, self._fragments = self._fragments, []
                events += self._watched(found)
                # The header of a creation tells etcd's newest revision, which is ahead of what a
                # watch that catches up has been sent; so do progress notifications of old releases.
                if not found and self._progress_trusted and not response.created:
                    self.reached = max(self.reached, response.header.revision)
        # Whatever was committed at the very next revision, nothing came in between.
        while (event := self._own.get(self.reached + 1)) is not None:
            self.reached += 1
            if event.key.startswith(self._prefix):
                events.append(event)
        begun = response is not None and response.created
        return Batch(tuple(events), self.reached) if begun or self.reached > before else None

    def _watched(self, found: list[Any]) -> list[Event]:
        """What is news, and under the prefix; the rest only shows how far the watch is."""
        events = []
        for message in found:
            if message.kv.mod_revision > self.reached:
                event = self._decode(message)
                if event is not None and event.key.startswith(self._prefix):
                    events.append(event)
        if found:
            self.reached = max(self.reached, found[-1].kv.mod_revision)
        return events
