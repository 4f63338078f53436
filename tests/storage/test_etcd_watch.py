"""What etcd's watch responses tell, and whom of its versions to believe."""

from typing import Any

import pytest

from storage import Batch, Event, EventType, etcd_proto
from storage.etcd_watch import Progression, tells_progress

PREFIX = b"/registry/a/"


def decode(event: Any) -> Event:
    return Event(EventType.CREATED, event.kv.key.decode(), event.kv.mod_revision, b"", None)


def responses(*rounds: dict[str, Any], trusted: bool) -> list[Batch | None]:
    """What a watch after revision 10 makes of responses, each of `events`, `header` and flags."""
    pb, _ = etcd_proto.load()
    progression = Progression(10, prefix=PREFIX, decode=decode, progress_trusted=trusted)
    taken = []
    for given in rounds:
        response = pb.WatchResponse(
            created=given.get("created", False), fragment=given.get("fragment", False)
        )
        response.header.revision = given.get("header", 0)
        for key, revision in given.get("events", ()):
            kv = response.events.add().kv
            kv.key, kv.mod_revision = key, revision
        taken.append(progression.take(response))
    return taken


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
    assert responses({"created": True, "header": 99}, trusted=trusted) == [Batch((), 10)]


def test_progress_is_taken_only_where_it_is_trusted() -> None:
    told = {"header": 42}
    assert responses(told, trusted=True) == [Batch((), 42)]
    assert responses(told, trusted=False) == [Batch((), 10)]


def test_fragments_of_one_revision_come_as_one_batch() -> None:
    first, second = b"/registry/a/x", b"/registry/a/y"
    taken = responses(
        {"events": [(first, 11)], "fragment": True, "header": 12},
        {"events": [(second, 11)], "header": 12},
        trusted=True,
    )
    assert taken[0] is None
    assert taken[1] is not None
    assert [event.key for event in taken[1].events] == [first.decode(), second.decode()]
    assert taken[1].revision == 11


@pytest.mark.parametrize("trusted", [False, True])
def test_a_key_beside_the_prefix_only_shows_how_far_the_watch_is(trusted: bool) -> None:
    marker = (b"/registry/a0\0progress", 12)
    (taken,) = responses({"events": [(b"/registry/a/x", 11), marker]}, trusted=trusted)
    assert taken is not None
    assert [event.revision for event in taken.events] == [11]
    assert taken.revision == 12
