"""What has been heard and is not enforced yet, and how old it is. Pure; `status` keeps one."""

from collections import deque

MARKS = 1024  # of a resource; beyond them changes count as old as the last one that fitted


class Backlog:
    """Revisions of each resource in the order in which they were heard, with the time of it."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[tuple[str, float]]] = {}

    def heard(self, resource: str, revision: str, at: float) -> None:
        """`at` is a monotonic time in seconds. The same revision again is no news."""
        marks = self._waiting.setdefault(resource, deque())
        if marks and marks[-1][0] == revision:
            return
        if len(marks) == MARKS:
            at = marks.pop()[1]
        marks.append((revision, at))

    def done(self, resource: str, revision: str) -> None:
        """Everything of a resource up to this revision is enforced.

        Revisions are compared by the order in which they came, since a server that was restored
        from a backup counts from an earlier number on; as numbers only where one is not known.
        """
        marks = self._waiting.get(resource, deque())
        known = [position for position, mark in enumerate(marks) if mark[0] == revision]
        if known:
            for _ in range(known[-1] + 1):
                marks.popleft()
        elif revision.isdecimal():
            while marks and marks[0][0].isdecimal() and int(marks[0][0]) <= int(revision):
                marks.popleft()

    def oldest(self) -> float | None:
        """When the oldest change that is not enforced was heard; None where all are."""
        return min((marks[0][1] for marks in self._waiting.values() if marks), default=None)
