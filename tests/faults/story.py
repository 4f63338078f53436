"""A small valid history, played on a dictionary: what the checker is tried on."""

from dataclasses import dataclass, field

from tests.faults.history import (
    History,
    Item,
    Kind,
    Operation,
    Outcome,
    Recorder,
    Said,
    Stream,
    Told,
)
from tests.faults.log import Entry
from tests.faults.streams import seen

FIRST = 10


@dataclass(slots=True)
class Story:
    """A server of one client after another, with two watchers of all and one of what is red."""

    revision: int = FIRST
    state: dict[str, Item] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    recorder: Recorder = field(default_factory=Recorder)

    def create(self, key: str, value: str, outcome: Outcome = Outcome.DONE) -> None:
        self._write(Kind.CREATE, key, value, 0, outcome)

    def update(
        self, key: str, value: str, expected: int = 0, outcome: Outcome = Outcome.DONE
    ) -> None:
        self._write(Kind.UPDATE, key, value, expected, outcome)

    def delete(self, key: str, expected: int = 0, outcome: Outcome = Outcome.DONE) -> None:
        self._write(Kind.DELETE, key, "", expected, outcome)

    def get(self, key: str) -> None:
        item = self.state.get(key)
        outcome = Outcome.DONE if item else Outcome.ABSENT
        self._asked(Kind.GET, key, outcome, found=(item,) if item else ())

    def list(self) -> None:
        items = tuple(self.state.values())
        self._asked(Kind.LIST, "", Outcome.DONE, revision=self.revision, found=items)

    def lose(self, kind: Kind, key: str, value: str = "") -> None:
        """A write that nobody heard of again."""
        self._asked(kind, key, Outcome.UNKNOWN, value=value)

    def bookmark(self) -> None:
        self.told.append(Told(self.recorder.tick(), Said.BOOKMARK, self.revision))

    def history(self) -> History:
        start = Told(0, Said.LISTED, FIRST)
        all_told = (start, *self.told)
        events = [Entry(told.said, told.item) for told in self.told if told.item]
        ticks = {told.revision: told.tick for told in self.told}
        red = [
            Told(ticks[entry.revision], entry.said, entry.revision, entry.item)
            for entry in seen(events, "red")
        ]
        streams = (
            Stream("w0", all_told),
            Stream("w1", all_told),
            Stream("red", (start, *red), colour="red"),
        )
        return History(tuple(self.recorder.operations), streams, self.revision)

    def _write(self, kind: Kind, key: str, value: str, expected: int, outcome: Outcome) -> None:
        if outcome not in (Outcome.DONE, Outcome.UNKNOWN):
            self._asked(kind, key, outcome, value=value, expected=expected)
            return
        self.revision += 1
        before = self.state.pop(key, None)
        uid = before.uid if before else f"uid-{self.revision}"
        last = before.value if before else ""
        item = Item(key, value or last, uid, self.revision)
        said = {Kind.CREATE: Said.ADDED, Kind.UPDATE: Said.MODIFIED, Kind.DELETE: Said.DELETED}
        gone = kind is Kind.DELETE
        if not gone:
            self.state[key] = item
        done = outcome is Outcome.DONE
        self._asked(
            kind,
            key,
            outcome,
            value=value,
            expected=expected,
            uid=uid if done and gone else "",
            found=(item,) if done and not gone else (),
        )
        self.told.append(Told(self.recorder.tick(), said[kind], self.revision, item))

    def _asked(
        self,
        kind: Kind,
        key: str,
        outcome: Outcome,
        *,
        value: str = "",
        expected: int = 0,
        revision: int = 0,
        uid: str = "",
        found: tuple[Item, ...] = (),
    ) -> None:
        invoked, returned = self.recorder.tick(), self.recorder.tick()
        operation = Operation(
            f"c{len(self.recorder.operations)}",
            kind,
            key,
            invoked,
            returned,
            outcome,
            value,
            expected,
            revision,
            uid,
            found,
        )
        self.recorder.operations.append(operation)


def valid() -> History:
    """Every kind of operation and outcome, on two keys and one that never is."""
    story = Story()
    story.list()
    story.create("a", "1-red")  # 11
    story.create("a", "2-red", Outcome.CONFLICT)
    story.update("a", "3-blue", 11)  # 12
    story.update("a", "4-blue", 11, Outcome.CONFLICT)
    story.get("a")
    story.create("b", "5-red", Outcome.UNKNOWN)  # 13
    story.get("b")
    story.list()
    story.bookmark()
    story.delete("a", 12)  # 14
    story.get("a")
    story.update("a", "6-red", 12, Outcome.ABSENT)
    story.create("a", "7-red")  # 15
    story.delete("a", outcome=Outcome.UNKNOWN)  # 16
    story.lose(Kind.UPDATE, "b", "11-red")
    story.lose(Kind.DELETE, "b")
    story.delete("none", outcome=Outcome.ABSENT)
    story.update("b", "8-blue", outcome=Outcome.REFUSED)
    story.update("b", "9-red")  # 17
    story.list()
    story.create("last", "10-red")
    return story.history()
