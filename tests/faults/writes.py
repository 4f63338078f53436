"""Which request each write of the log was, and what each acknowledged one left. Pure.

Creates and updates are known by their marks, acknowledged deletes by the incarnation they ended.
A deletion that nobody was told of must be one whose outcome is unknown.
"""

from collections.abc import Iterator, Mapping, Sequence

from tests.faults.history import WRITES, Item, Kind, Operation, Outcome, Said
from tests.faults.log import Entry, Log

MADE_BY = {Said.ADDED: Kind.CREATE, Said.MODIFIED: Kind.UPDATE, Said.DELETED: Kind.DELETE}


def standing(log: Log, operations: Sequence[Operation]) -> dict[int, int]:
    """The revisions of the operations, by their index, whose place in the log is sure."""
    asked = {op.value: index for index, op in enumerate(operations) if op.value}
    ended: dict[str, int] = {}
    for index, op in enumerate(operations):
        if op.uid:
            ended.setdefault(op.uid, index)
    found: dict[int, int] = {}
    for entry in log.entries:
        deleted = entry.said is Said.DELETED
        at = ended.get(entry.item.uid) if deleted else asked.get(entry.item.value)
        if at is not None:
            found[at] = entry.revision
    return found


def problems(
    log: Log,
    operations: Sequence[Operation],
    places: Mapping[int, int],
    floors: Mapping[int, int],
) -> Iterator[str]:
    """What is wrong with the log as the outcome of those requests.

    `floors` are the revisions that were known when each was invoked.
    """
    yield from _acknowledged(log, operations, places)
    by = {revision: operations[index] for index, revision in places.items()}
    unknown = [
        (op, floors[index])
        for index, op in enumerate(operations)
        if op.kind is Kind.DELETE and op.outcome is Outcome.UNKNOWN
    ]
    live: dict[str, Item] = {}
    marks: set[str] = set()
    uids: set[str] = set()
    for entry in log.entries:
        key, before = entry.item.key, live.get(entry.item.key)
        operation = by.get(entry.revision)
        if operation is None and entry.said is Said.DELETED:
            operation = _deleter(entry, before, unknown)
        if operation is None:
            yield f"invented write: nobody asked for {entry}"
        else:
            yield from _asked(entry, operation, before)
        yield from _continued(entry, before, marks, uids)
        if entry.left is None:
            live.pop(key, None)
        else:
            live[key] = entry.left


def _acknowledged(
    log: Log, operations: Sequence[Operation], places: Mapping[int, int]
) -> Iterator[str]:
    """Every acknowledged write is in the log, as it was answered; a delete ended one object."""
    ended: set[str] = set()
    for index, op in enumerate(operations):
        if op.kind not in WRITES or op.outcome is not Outcome.DONE:
            continue
        entry = log.at(places[index]) if index in places else None
        if op.uid and op.uid in ended:
            yield f"doubled delete: another had deleted that object: {op}"
        elif entry is None:
            yield f"lost write: acknowledged, and no watch told of it: {op}"
        elif op.found and op.found[0] != entry.item:
            yield f"wrong answer: {op.found[0]}, but it is {entry}: {op}"
        if op.uid:
            ended.add(op.uid)


def _asked(entry: Entry, operation: Operation, before: Item | None) -> Iterator[str]:
    """The write is what its request asked for, and the request was not refused."""
    if operation.outcome not in (Outcome.DONE, Outcome.UNKNOWN):
        yield f"refused write stands: {entry}, answered as {operation.outcome}: {operation}"
    if operation.kind is not MADE_BY[entry.said] or operation.key != entry.item.key:
        yield f"wrong write: {entry} came of {operation}"
    if operation.expected and (before is None or before.revision != operation.expected):
        yield f"wrong base: {entry} stands on {before}: {operation}"


def _continued(entry: Entry, before: Item | None, marks: set[str], uids: set[str]) -> Iterator[str]:
    """The write follows from what stood there before. Notes its mark and incarnation."""
    item = entry.item
    if entry.said is Said.ADDED:
        if before is not None:
            yield f"wrong base: {entry} was created over {before}"
        if item.uid in uids:
            yield f"resurrected object: {entry} is an incarnation from before"
        uids.add(item.uid)
    elif before is None:
        yield f"wrong base: {entry} stands on nothing"
    elif before.uid != item.uid:
        yield f"wrong base: {entry} is of another incarnation than {before}"
    if entry.said is Said.DELETED:
        if before is not None and before.value != item.value:
            yield f"wrong last content: {entry}, but it was {before}"
    elif item.value in marks:
        yield f"doubled write: {entry} had been written before"
    marks.add(item.value)


def _deleter(
    entry: Entry, before: Item | None, unknown: list[tuple[Operation, int]]
) -> Operation | None:
    """Take the request with an unknown outcome that can have been this deletion.

    One that names the revision can have been no other, so those go first.
    """
    fitting = [
        (op, floor)
        for op, floor in unknown
        if op.key == entry.item.key
        and floor < entry.revision
        and (not op.expected or (before is not None and op.expected == before.revision))
    ]
    if not fitting:
        return None
    chosen = max(fitting, key=lambda candidate: candidate[0].expected > 0)
    unknown.remove(chosen)
    return chosen[0]
