"""The checker finds nothing wrong with a valid history, and names what is wrong with any other."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.faults.check import violations
from tests.faults.history import History, Item, Kind, Operation, Outcome, Said, Told
from tests.faults.story import Story, valid

Corruption = Callable[[History], History]


def test_a_valid_history_has_no_violations() -> None:
    assert violations(valid()) == []


def ask(mark: str, **changes: object) -> Corruption:
    """Another answer or time for the operation with that value, or for that client."""

    def corrupt(history: History) -> History:
        chosen = [op for op in history.operations if mark in (op.value, op.client)]
        assert len(chosen) == 1
        changed = replace(chosen[0], **changes)  # type: ignore[arg-type]
        return replace(
            history,
            operations=tuple(changed if op is chosen[0] else op for op in history.operations),
        )

    return corrupt


def tell(
    change: Callable[[list[Told]], list[Told]], *watchers: str, until: int | None = None
) -> Corruption:
    """Something else told to those watchers, or to all."""

    def corrupt(history: History) -> History:
        streams = tuple(
            replace(stream, told=tuple(change(list(stream.told))))
            if not watchers or stream.watcher in watchers
            else stream
            for stream in history.streams
        )
        return replace(history, streams=streams, end=until or history.end)

    return corrupt


def without(revision: int) -> Callable[[list[Told]], list[Told]]:
    return lambda told: [t for t in told if t.revision != revision or t.item is None]


def twice(revision: int) -> Callable[[list[Told]], list[Told]]:
    return lambda told: [t for t in told for _ in range(1 + (t.revision == revision))]


def swapped(first: int) -> Callable[[list[Told]], list[Told]]:
    def change(told: list[Told]) -> list[Told]:
        at = next(i for i, t in enumerate(told) if t.revision == first and t.item)
        then = next(i for i, t in enumerate(told) if t.revision == first + 1 and t.item)
        told[at], told[then] = told[then], told[at]
        return told

    return change


def altered(revision: int, **changes: object) -> Callable[[list[Told]], list[Told]]:
    """Another item, revision or type in that event."""

    def one(told: Told) -> Told:
        if told.revision != revision or told.item is None:
            return told
        inner = {key: value for key, value in changes.items() if key not in ("said", "item")}
        item = replace(told.item, **inner)  # type: ignore[arg-type]
        said = Said(str(changes.get("said", told.said)))
        return Told(told.tick, said, item.revision, item)

    return lambda told: [one(t) for t in told]


def added(told: Told) -> Callable[[list[Told]], list[Told]]:
    return lambda known: sorted([*known, told], key=lambda t: t.revision)


def asked(*operations: Operation) -> Corruption:
    return lambda history: replace(history, operations=history.operations + operations)


def gone(mark: str) -> Corruption:
    return lambda history: replace(
        history, operations=tuple(op for op in history.operations if op.value != mark)
    )


def both(*corruptions: Corruption) -> Corruption:
    def corrupt(history: History) -> History:
        for corruption in corruptions:
            history = corruption(history)
        return history

    return corrupt


def item(revision: int) -> Item:
    """The object as that write left it."""
    return next(
        t.item for t in valid().streams[0].told if t.revision == revision and t.item is not None
    )


A_12, B_13, B_17, LAST = item(12), item(13), item(17), item(18)
LATE = 10_000
GET_A, GET_B, LIST_3 = "c5", "c7", "c19"

CORRUPTIONS: dict[str, tuple[Corruption, str]] = {
    "an acknowledged write that nobody is told of": (tell(without(17)), "lost write"),
    "an acknowledged delete that nobody is told of": (tell(without(14)), "lost write"),
    "an acknowledged delete of nothing": (
        asked(Operation("x", Kind.DELETE, "b", LATE, LATE + 1, Outcome.DONE, uid="uid-none")),
        "lost write",
    ),
    "two deletes of one object": (
        asked(Operation("x", Kind.DELETE, "a", LATE, LATE + 1, Outcome.DONE, uid=A_12.uid)),
        "doubled delete",
    ),
    "a write acknowledged at another revision": (
        ask("9-red", found=(replace(B_17, revision=16),)),
        "wrong answer",
    ),
    "a write that took effect twice": (
        both(
            tell(added(Told(LATE, Said.MODIFIED, 19, replace(B_17, revision=19)))),
            lambda history: replace(history, end=19),
        ),
        "doubled write",
    ),
    "a value that comes back": (
        tell(altered(17, value="5-red")),
        "doubled write",
    ),
    "an object that comes back": (tell(altered(15, uid="uid-11")), "resurrected object"),
    "an event of no request": (
        tell(added(Told(LATE, Said.ADDED, 19, Item("x", "x-red", "u", 19))), until=19),
        "invented write",
    ),
    "a deletion of no request": (
        tell(added(Told(LATE, Said.DELETED, 19, replace(LAST, revision=19))), until=19),
        "invented write",
    ),
    "a request that the writer never made": (gone("5-red"), "invented write"),
    "a refused write that took effect": (ask("9-red", outcome=Outcome.REFUSED), "refused write"),
    "a conflict that took effect": (ask("3-blue", outcome=Outcome.CONFLICT), "refused write"),
    "a create that is told as an update": (tell(altered(13, said="MODIFIED")), "wrong write"),
    "a swap of what does not stand there": (ask("3-blue", expected=9), "wrong base"),
    "a delete of what does not stand there": (
        both(ask("c9", expected=11)),
        "wrong base",
    ),
    "a create over a live object": (tell(without(14)), "wrong base"),
    "an update of another incarnation": (tell(altered(17, uid="uid-x")), "wrong base"),
    "a wrong last content": (tell(altered(14, value="1-red"), "w0", "w1"), "wrong last content"),
    "a write at a revision that was known before": (
        ask("9-red", invoked=LATE, returned=LATE + 1),
        "revision went back",
    ),
    "a write with unknown outcome that stood before it was invoked": (
        ask("5-red", invoked=LATE, returned=LATE + 1),
        "revision went back",
    ),
    "a get of what was replaced before": (
        ask(GET_A, invoked=LATE, returned=LATE + 1),
        "stale read",
    ),
    "a get of what never was": (
        ask(GET_B, found=(replace(B_13, value="x-red"),)),
        "invented read",
    ),
    "a get of what comes later": (ask(GET_B, found=(B_17,)), "too new"),
    "an object not found that stood": (
        ask(GET_B, outcome=Outcome.ABSENT, found=()),
        "wrongly absent",
    ),
    "a create refused though nothing stood": (
        both(ask("2-red", key="none")),
        "wrong conflict",
    ),
    "a swap refused though it was due": (ask("4-blue", expected=12), "too new"),
    "a conflict of a write without condition": (ask("4-blue", expected=0), "wrong conflict"),
    "a list from before": (ask(LIST_3, revision=16), "stale list"),
    "a list without an object": (ask(LIST_3, found=()), "wrong list"),
    "a list with an old object": (ask(LIST_3, found=(B_13,)), "wrong list"),
    "a list with a deleted object": (ask(LIST_3, found=(B_17, A_12)), "wrong list"),
    "a doubled event": (tell(twice(12), "w0"), "out of order: w0"),
    "two events in the wrong order": (tell(swapped(12), "w1"), "out of order: w1"),
    "a missing event": (tell(without(12), "w0"), "missed event: w0"),
    "a missing event in a selection": (tell(without(12), "red"), "missed event: red"),
    "a missing end": (tell(without(18), "w1"), "missed event: w1"),
    "a watcher that is told something else": (
        tell(altered(12, value="x-blue"), "w1"),
        "wrong event: w1",
    ),
    "a wrong type": (tell(altered(12, said="ADDED"), "w1"), "wrong event: w1"),
    "a DELETED event with other content": (
        tell(altered(14, value="1-red"), "w1"),
        "wrong event: w1",
    ),
    "an event in a selection that it does not show": (
        tell(added(Told(LATE, Said.MODIFIED, 14, replace(A_12, revision=14))), "red"),
        "invented event: red",
    ),
    "an object that leaves a selection as MODIFIED": (
        tell(altered(12, said="MODIFIED"), "red"),
        "wrong event: red",
    ),
    "a bookmark before its events": (
        tell(lambda told: [told[0], Told(LATE, Said.BOOKMARK, 13), *told[1:]], "w0"),
        "missed event: w0",
    ),
    "a bookmark at an event that is yet to come": (
        tell(lambda told: [*told[:1], Told(LATE, Said.BOOKMARK, 11), *told[1:]], "w0"),
        "early bookmark: w0",
    ),
    "a bookmark that goes back": (
        tell(lambda told: [*told, Told(LATE, Said.BOOKMARK, 12)], "w0"),
        "out of order: w0",
    ),
    "a watcher that has to list again": (
        tell(lambda told: [*told, Told(LATE, Said.EXPIRED, 0)], "w0"),
        "expired: w0",
    ),
}


@pytest.mark.parametrize(("corruption", "name"), CORRUPTIONS.values(), ids=CORRUPTIONS.keys())
def test_it_finds(corruption: Corruption, name: str) -> None:
    history = corruption(valid())
    assert history != valid()
    assert any(found.startswith(name) for found in violations(history)), violations(history)


def test_a_watcher_that_stayed_away_too_long_may_list_again() -> None:
    def relisted(told: list[Told]) -> list[Told]:
        kept = [t for t in told if t.revision <= 12 or t.revision >= 17]
        at = next(i for i, t in enumerate(kept) if t.revision == 17)
        again = [Told(LATE, Said.EXPIRED, 0), Told(LATE, Said.LISTED, 16)]
        return kept[:at] + again + kept[at:]

    history = tell(relisted, "w0")(valid())
    w0, *others = history.streams
    allowed = replace(history, streams=(replace(w0, may_expire=True), *others))
    assert violations(allowed) == []
    assert [found.partition(":")[0] for found in violations(history)] == ["expired"]


def test_operations_at_the_same_time_may_stand_in_any_order() -> None:
    story = Story()
    story.create("a", "1-red")
    story.update("a", "2-red")
    story.get("a")
    first, second, read = story.recorder.operations
    story.recorder.operations[:] = [
        replace(first, invoked=1, returned=90),
        replace(second, invoked=2, returned=91),
        replace(read, found=first.found, invoked=3, returned=92),
    ]
    history = story.history()
    streams = tuple(
        replace(stream, told=tuple(replace(told, tick=told.tick + 100) for told in stream.told))
        for stream in history.streams
    )
    assert violations(replace(history, streams=streams)) == []


def test_two_reads_one_after_the_other_do_not_go_back() -> None:
    """Neither write has returned, so only the reads order them."""
    story = Story()
    story.create("a", "1-red", Outcome.UNKNOWN)
    story.update("a", "2-red", outcome=Outcome.UNKNOWN)
    story.get("a")
    story.get("a")
    *writes, first, second = story.recorder.operations
    history = story.history()
    streams = tuple(
        replace(stream, told=tuple(replace(told, tick=told.tick + 100) for told in stream.told))
        for stream in history.streams
    )
    old = Item("a", "1-red", "uid-11", 11)
    fine = (*writes, replace(first, found=(old,)), second)
    back = (*writes, first, replace(second, found=(old,)))
    assert violations(replace(history, operations=fine, streams=streams)) == []
    found = violations(replace(history, operations=back, streams=streams))
    assert [text.partition(":")[0] for text in found] == ["stale read"]
