"""The newest events in memory."""

from storage import Event, EventType
from storage.recent import Recent


def event(revision: int, size: int = 1) -> Event:
    return Event(EventType.CREATED, f"/{revision}", revision, b"x" * size, None)


def revisions(recent: Recent, after: int, count: int = 100) -> tuple[list[int], int]:
    found, complete = recent.after(after, count)
    return [item.revision for item in found], complete


def test_what_is_known_already_is_passed_over() -> None:
    recent = Recent(10)
    recent.extend([event(11), event(12)], 12)
    recent.extend([event(11), event(12), event(13)], 13)
    recent.extend([event(12)], 12)
    assert revisions(recent, 10) == ([11, 12, 13], 13)
    assert revisions(recent, 12) == ([13], 13)
    assert revisions(recent, 13) == ([], 13)


def test_a_portion_is_complete_to_its_last_event() -> None:
    recent = Recent(10)
    recent.extend([event(n) for n in range(11, 16)], 20)
    assert revisions(recent, 10, 2) == ([11, 12], 12)
    assert revisions(recent, 12, 9) == ([13, 14, 15], 20)


def test_it_is_bounded_in_number_and_in_bytes() -> None:
    recent = Recent(10, capacity=3, limit=100)
    recent.extend([event(n) for n in range(11, 16)], 15)
    assert (recent.floor, revisions(recent, recent.floor)[0]) == (12, [13, 14, 15])
    recent.extend([event(16, 98)], 16)
    assert (recent.floor, revisions(recent, recent.floor)[0]) == (13, [14, 15, 16])
    recent.extend([event(17, 200)], 17)
    assert (recent.floor, recent.end) == (17, 17)


def test_after_a_gap_it_begins_anew() -> None:
    recent = Recent(10)
    recent.extend([event(11)], 11)
    recent.restart(50)
    assert (recent.floor, recent.end, revisions(recent, 50)) == (50, 50, ([], 50))


def test_what_is_compacted_is_forgotten() -> None:
    recent = Recent(10)
    recent.extend([event(11), event(12), event(13)], 13)
    recent.forget(12)
    assert (recent.floor, revisions(recent, 12)) == (12, ([13], 13))
    recent.forget(99)
    assert (recent.floor, recent.end) == (13, 13)
