"""Is there one order of all operations that real time and every answer agree with? Pure.

Writes stand where their revisions say. A read, and a refusal, happened at a moment between its
invocation and its return; it is given the earliest that explains the answer, which leaves most
room to all after it. Whoever is invoked later must not stand before what was known by then.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf

from tests.faults.history import History, Item, Kind, Operation, Outcome, Said
from tests.faults.log import Log


def floors(
    log: Log, history: History, places: Mapping[int, int]
) -> tuple[dict[int, int], list[str]]:
    """The revision known at the invocation of each operation, by its index; and what is wrong.

    `places` are the revisions of the writes whose place is sure.
    """
    found: dict[int, int] = {}
    wrong: list[str] = []
    known = 0
    ceiling = _ceilings(history.operations, places)
    for _, index, revision in sorted(_moments(history)):
        if index < 0:
            known = max(known, revision)
            continue
        operation, place = history.operations[index], places.get(index)
        if index not in found:
            found[index] = known
            if place is not None and place <= known:
                wrong.append(
                    f"revision went back: at {place}, and {known} was known before: {operation}"
                )
        elif operation.kind in (Kind.GET, Kind.LIST) or operation.outcome is not Outcome.DONE:
            at, problem = _explain(log, operation, found[index])
            if not problem and at >= ceiling(operation.returned):
                problem = f"too new: answered as from {at} on, which was asked for later"
            if problem:
                wrong.append(f"{problem}: {operation}")
            else:
                known = max(known, at)
        elif place is not None:
            known = max(known, place)
    return found, wrong


def _ceilings(operations: Sequence[Operation], places: Mapping[int, int]) -> Callable[[int], float]:
    """Tells the first revision of all writes that were invoked after a tick."""
    invoked = sorted((operations[index].invoked, place) for index, place in places.items())
    lowest: list[float] = [inf]
    for _, place in reversed(invoked):
        lowest.append(min(lowest[-1], place))
    lowest.reverse()
    return lambda tick: lowest[bisect_right(invoked, (tick, 0))]


def _moments(history: History) -> Iterator[tuple[int, int, int]]:
    """(tick, index of the operation or -1, what a watch told then)."""
    for index, operation in enumerate(history.operations):
        yield operation.invoked, index, 0
        yield operation.returned, index, 0
    for stream in history.streams:
        for told in stream.told:
            if told.said is not Said.EXPIRED:
                yield told.tick, -1, told.revision


def _explain(log: Log, operation: Operation, floor: int) -> tuple[int, str]:
    """The first revision from `floor` on at which that could be answered, or what is wrong."""
    match operation.outcome, operation.kind:
        case Outcome.DONE, Kind.LIST:
            if operation.revision < floor:
                return 0, f"stale list: at {operation.revision}, and {floor} was known before"
            return operation.revision, ""
        case Outcome.DONE, Kind.GET:
            return _read(log, operation.found[0], floor)
        case Outcome.ABSENT, _:
            at = log.moment(operation.key, floor, lambda item: item is None)
            return (0, f"wrongly absent from {floor} on") if at is None else (at, "")
        case Outcome.CONFLICT, _:
            expected, create = operation.expected, operation.kind is Kind.CREATE
            at = log.moment(
                operation.key,
                floor,
                lambda item: bool(item and (create or expected) and item.revision != expected),
            )
            return (0, f"wrong conflict from {floor} on") if at is None else (at, "")
    return 0, ""


def _read(log: Log, item: Item, floor: int) -> tuple[int, str]:
    entry = log.at(item.revision)
    if entry is None or entry.left != item:
        return 0, f"invented read: {item} was never written"
    at = log.moment(item.key, floor, lambda stood: stood == item)
    if at is None:
        return 0, f"stale read: {item} was gone by {floor}, which was known before"
    return at, ""


def lists(log: Log, operations: Sequence[Operation], end: int) -> Iterator[str]:
    """Each list is the state of the log at its revision."""
    done = [op for op in operations if op.kind is Kind.LIST and op.outcome is Outcome.DONE]
    state: dict[str, Item] = {}
    position = 0
    for operation in sorted(done, key=lambda op: op.revision):
        if operation.revision > end:
            return
        until = log.position(operation.revision)
        for entry in log.entries[position:until]:
            if entry.left is None:
                state.pop(entry.item.key, None)
            else:
                state[entry.item.key] = entry.left
        position = max(position, until)
        listed = {item.key: item for item in operation.found}
        wrong = [
            f"{key} is {listed.get(key)}, was {state.get(key)}"
            for key in sorted(listed.keys() | state.keys())
            if listed.get(key) != state.get(key)
        ]
        if wrong:
            yield f"wrong list at {operation.revision}: {wrong[0]}: {operation}"
