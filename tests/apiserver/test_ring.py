"""The ring of events that watches read."""

from dataclasses import dataclass

import pytest

from apiserver.cache.ring import Expired, Overrun, Ring


@dataclass(frozen=True)
class Item:
    revision: int
    size: int = 1


def ring(*revisions: int, capacity: int = 100, limit: int = 1000, floor: int = 10) -> Ring[Item]:
    made: Ring[Item] = Ring(floor=floor, capacity=capacity, limit=limit)
    for revision in revisions:
        made.append(Item(revision))
    return made


def test_a_reader_gets_what_came_after_its_revision() -> None:
    events = ring(11, 15, 20)
    position = events.after(12)
    assert [item.revision for item in events.read(position, count=10, limit=100)] == [15, 20]


@pytest.mark.parametrize(("revision", "expected"), [(10, [11, 15]), (11, [15]), (15, []), (99, [])])
def test_a_revision_between_events_is_a_position(revision: int, expected: list[int]) -> None:
    events = ring(11, 15)
    assert [
        item.revision for item in events.read(events.after(revision), count=10, limit=100)
    ] == expected


def test_a_revision_before_the_floor_is_expired() -> None:
    with pytest.raises(Expired) as caught:
        ring(11).after(9)
    assert caught.value.oldest == 10


def test_the_floor_rises_with_what_is_dropped() -> None:
    events = ring(11, 12, 13, capacity=2)
    with pytest.raises(Expired):
        events.after(10)
    assert [item.revision for item in events.read(events.after(11), count=10, limit=100)] == [
        12,
        13,
    ]


def test_bytes_are_bounded_but_the_newest_event_stays() -> None:
    events = ring(limit=10)
    events.append(Item(11, 6))
    events.append(Item(12, 50))
    assert [item.revision for item in events.read(events.after(11), count=10, limit=100)] == [12]


def test_a_reader_that_fell_behind_is_told_so() -> None:
    events = ring(11, 12, capacity=2)
    position = events.after(10)
    events.append(Item(13))
    with pytest.raises(Overrun):
        events.read(position, count=10, limit=100)


def test_a_portion_is_bounded_in_bytes_but_never_empty() -> None:
    events: Ring[Item] = Ring(floor=10, capacity=100, limit=1000)
    for revision, size in ((11, 50), (12, 5), (13, 4), (14, 2)):
        events.append(Item(revision, size))
    sizes: list[list[int]] = []
    position = 0
    while portion := events.read(position, count=10, limit=10):
        sizes.append([item.size for item in portion])
        position += len(portion)
    assert sizes == [[50], [5, 4], [2]]


def test_a_reader_far_behind_is_served_in_portions() -> None:
    events = ring(*range(11, 61))
    seen: list[int] = []
    position = events.after(10)
    while portion := events.read(position, count=7, limit=100):
        seen += [item.revision for item in portion]
        position += len(portion)
    assert seen == list(range(11, 61))
