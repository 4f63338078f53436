"""Was each watcher told the log, all of it from where it began, once and in order? Pure."""

from collections.abc import Iterable, Iterator

from tests.faults.history import Said, Stream
from tests.faults.log import EVENTS, Entry, Log


def expired(stream: Stream) -> Iterator[str]:
    """Nobody who was never away for long is sent back to the start."""
    reached = 0
    for told in stream.told:
        if told.said is Said.EXPIRED and not stream.may_expire:
            yield f"expired: {stream.watcher} was told 410 after {reached}"
        reached = told.revision


def problems(log: Log, stream: Stream, end: int) -> Iterator[str]:
    """What is wrong with what one watcher was told, up to `end`."""
    expected = list(seen(log.entries, stream.colour))
    name, reached, position = stream.watcher, 0, 0
    for told in stream.told:
        if told.said is Said.EXPIRED:
            continue
        if told.said is Said.LISTED:
            reached = told.revision
            position = sum(entry.revision <= reached for entry in expected)
            continue
        if told.revision < reached or (told.revision == reached and told.said in EVENTS):
            yield f"out of order: {name} was told {told} after {reached}"
            continue
        if told.revision > end:
            break
        while position < len(expected) and expected[position].revision < told.revision:
            yield f"missed event: {name} was told {told}, not yet {expected[position]}"
            position += 1
        at = position < len(expected) and expected[position].revision == told.revision
        if told.said is Said.BOOKMARK:
            if at:
                yield f"early bookmark: {name} at {told.revision} without {expected[position]}"
        elif not at:
            yield f"invented event: {name} was told {told}"
        elif told.item != expected[position].item or told.said is not expected[position].said:
            yield f"wrong event: {name} was told {told} of {expected[position]}"
        position += at
        reached = told.revision
    for entry in expected[position:]:
        yield f"missed event: {name} was never told {entry}"


def seen(entries: Iterable[Entry], colour: str) -> Iterator[Entry]:
    """The log through a selector: what enters the view is ADDED, what leaves it DELETED.

    A deletion tells the last content that was in view, and the revision of the change.
    """
    if not colour:
        yield from entries
        return
    shown: dict[str, Entry] = {}
    for entry in entries:
        item = entry.item
        before = shown.pop(item.key, None)
        if entry.said is not Said.DELETED and item.colour == colour:
            shown[item.key] = entry
            yield Entry(Said.MODIFIED if before else Said.ADDED, item)
        elif before:
            last = before.item
            yield Entry(Said.DELETED, type(item)(item.key, last.value, last.uid, item.revision))
