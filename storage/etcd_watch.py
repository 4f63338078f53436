"""What a stream of etcd's watch responses tells: which events, and how far they are complete.

`storage.etcd` feeds it every response of a stream. Pure. A response that is too large for one
message comes in fragments, and only with the last of them is its revision complete.
"""

import re
from collections.abc import Callable
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
    """One watch on one stream, complete to `reached`."""

    def __init__(
        self,
        reached: int,
        *,
        prefix: bytes,
        decode: Callable[[Any], Event],
        progress_trusted: bool,
    ) -> None:
        self.reached = reached
        self._prefix = prefix
        self._decode = decode
        self._progress_trusted = progress_trusted
        self._fragments: list[Any] = []

    def take(self, response: Any) -> Batch | None:
        """What a response adds; None while fragments of it are missing."""
        self._fragments += response.events
        if response.fragment:
            return None
        events, self._fragments = self._fragments, []
        if events:
            self.reached = events[-1].kv.mod_revision
        elif self._progress_trusted and not response.created:
            # The header of any other response tells etcd's newest revision, which is ahead of what
            # a watch that catches up has been sent.
            self.reached = max(self.reached, response.header.revision)
        # What is watched beside the prefix only shows how far the watch is.
        watched = [event for event in events if self._watches(event.kv.key)]
        return Batch(tuple(map(self._decode, watched)), self.reached)

    def _watches(self, key: bytes) -> bool:
        return key.startswith(self._prefix) and not key.endswith(MARK)
