"""What etcd's watch responses tell, and whom of its versions to believe."""

import random
from typing import Any

import pytest

from storage import Batch, Event, EventType, etcd_proto
from storage.etcd_watch import MARK, Progression, tells_progress

PREFIX = "/a/"


def decode(event: Any) -> Event | None:
    if event.kv.key.endswith(MARK):
        return None
    return created(event.kv.key.decode(), event.kv.mod_revision)


def created(key: str, revision: int) -> Event:
    return Event(EventType.CREATED, key, revision, b"", None)


def progression(*own: Event, trusted: bool = False) -> Progression:
    """A watch after revision 10."""
    return Progression(
        10,
        prefix=PREFIX,
        own={event.revision: event for event in own},
        decode=decode,
        progress_trusted=trusted,
    )


def response(*events: tuple[str, int], header: int = 0, **flags: bool) -> Any:
    pb, _ = etcd_proto.load()
    made = pb.WatchResponse(**flags)
    made.header.revision = header
    for key, revision in events:
        kv = made.events.add().kv
        kv.key, kv.mod_revision = key.encode(), revision
    return made


@pytest.mark.parametrize(
    ("version", "trusted"),
    [
        ("3.4.23", False), ("3.4.30", False), ("3.4.31", True), ("3.4.100", True),
        ("3.5.0", False), ("3.5.12", False), ("3.5.13", True), ("3.5.16-rc.0", True),
        ("3.6.0", True), ("4.0.0", True), ("3.3.27", False), ("2.3.8", False), ("", False),
        ("not a version", False),
    ],
)  # fmt: skip
def test_progress_is_believed_from_the_release_that_mended_it_on(
    version: str, trusted: bool
) -> None:
    assert tells_progress(version) is trusted


@pytest.mark.parametrize("trusted", [False, True])
def test_the_header_of_a_creation_tells_nothing(trusted: bool) -> None:
    watch = progression(trusted=trusted)
    assert watch.take(response(header=99, created=True)) == Batch((), 10)


def test_progress_is_taken_only_where_it_is_trusted() -> None:
    assert progression(trusted=True).take(response(header=42)) == Batch((), 42)
    assert progression(trusted=False).take(response(header=42)) is None


def test_fragments_of_one_revision_come_as_one_batch() -> None:
    watch = progression(trusted=True)
    assert watch.take(response(("/a/x", 11), header=12, fragment=True)) is None
    batch = watch.take(response(("/a/y", 11), header=12))
    assert batch == Batch((created("/a/x", 11), created("/a/y", 11)), 11)


@pytest.mark.parametrize("trusted", [False, True])
def test_a_key_beside_the_prefix_only_shows_how_far_the_watch_is(trusted: bool) -> None:
    watch = progression(trusted=trusted)
    beside = response(("/a/x", 11), ("/a0", 12), ("/a0\0progress", 13))
    assert watch.take(beside) == Batch((created("/a/x", 11),), 13)


def test_what_was_committed_here_at_the_next_revision_is_told_at_once() -> None:
    watch = progression(created("/a/x", 11), created("/b/x", 12), created("/a/z", 14))
    # 13 is somebody else's: what comes after it must wait for it.
    assert watch.take(None) == Batch((created("/a/x", 11),), 12)
    assert watch.take(None) is None
    assert watch.take(response(("/a/x", 11))) is None
    told = watch.take(response(("/a/y", 13)))
    assert told == Batch((created("/a/y", 13), created("/a/z", 14)), 14)
    assert watch.take(response(("/a/z", 14), ("/a/w", 15))) == Batch((created("/a/w", 15),), 15)


def test_fragments_and_commits_from_here_are_told_once() -> None:
    watch = progression(created("/a/x", 11), created("/a/y", 12))
    assert watch.take(response(("/a/x", 11), ("/a/y", 12), fragment=True)) == Batch(
        (created("/a/x", 11), created("/a/y", 12)), 12
    )
    assert watch.take(response(("/a/z", 13))) == Batch((created("/a/z", 13),), 13)


def test_any_history_is_told_once_in_order_and_whole() -> None:
    rand = random.Random(5)
    for _ in range(200):
        log = [created(f"/{rand.choice('ab')}/{n}", n) for n in range(11, 60)]
        ours = {event.revision: event for event in log if rand.random() < 0.6}
        known: dict[int, Event] = {}
        watch = Progression(10, prefix=PREFIX, own=known, decode=decode, progress_trusted=True)
        told: list[Event] = []
        complete = 10
        queue = list(log)
        while complete < 59:
            # Commits are known before or after etcd tells of them, which it does in portions.
            if rand.random() < 0.6 and ours:
                revision = rand.choice(list(ours)[:4])
                known[revision] = ours.pop(revision)
                batch = watch.take(None)
            elif queue:
                size = rand.randint(1, 5)
                portion, queue = queue[:size], queue[size:]
                batch = watch.take(
                    response(
                        *((event.key, event.revision) for event in portion),
                        fragment=bool(queue) and rand.random() < 0.3,
                    )
                )
            else:
                batch = watch.take(response(header=59))
            if batch is not None:
                told += batch.events
                assert batch.revision >= complete
                complete = batch.revision
                assert all(event.revision <= complete for event in told)
        assert told == [event for event in log if event.key.startswith(PREFIX)]
