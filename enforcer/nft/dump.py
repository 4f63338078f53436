"""Read a table back from the kernel's messages. Pure.

Elements come back as they were put, rules as the kernel shows them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from enforcer.diff import Held, is_counted
from enforcer.nft import batch, elements, wire
from enforcer.nft.expressions import Expression, shown
from enforcer.ruleset import NftSet

_READINGS = 20

# Asks for all objects of a kind, with the attributes of the question: their bodies.
Ask = Callable[[int, bytes], Iterable[bytes]]


class Table(NamedTuple):
    """`owner` is the netlink port of the socket that owns it, 0 for none."""

    name: str
    flags: int
    owner: int
    comment: str


class Flow(NamedTuple):
    """An element that packets have put into a set: the fields of its key, and what it counted."""

    key: list[str]
    packets: int
    octets: int
    expires: float  # seconds


class Unsettled(Exception):
    """A set changes so much that it cannot be read."""


def tables(ask: Ask) -> list[Table]:
    """The tables of the family inet."""
    found = []
    for body in ask(batch.GETTABLE, b""):
        parts = wire.attributes(body)
        flags, owner = (_int(parts.get(key, b"")) for key in (2, 7))
        found.append(Table(wire.string(parts[1]), flags, owner, batch.comment(parts)))
    return found


def held(ask: Ask, table: str) -> Held:
    """A table's content. What packets have counted is left out."""
    owner = wire.text(1, table)
    sets: dict[str, NftSet] = {}
    anonymous: dict[str, tuple[tuple[bytes, ...], int]] = {}
    for body in list(ask(batch.GETSET, owner)):
        parts = wire.attributes(body)
        name = wire.string(parts[2])
        if name.startswith("__"):
            keys = sorted(elements.member(item) for item in _elements(ask, owner, name))
            anonymous[name] = tuple(keys), _int(parts.get(4, b""))
            continue
        made = NftSet(*elements.kind(parts))
        if not is_counted(name):
            made.elements = _all(ask, owner, name, made, _number(parts))
        sets[name] = made
    hooks: dict[str, str] = {}
    chains: dict[str, list[tuple[Expression, ...]]] = {}
    for body in ask(batch.GETCHAIN, owner):
        parts = wire.attributes(body)
        if wire.string(parts[1]) != table:
            continue
        name = wire.string(parts[3])
        chains[name] = []
        if hook := batch.hook_text(parts):
            hooks[name] = hook
    unknown: tuple[tuple[bytes, ...], int] = (), 0
    for body in ask(batch.GETRULE, owner):
        parts = wire.attributes(body)
        if wire.string(parts[1]) == table:
            rule = shown(parts.get(4, b""), lambda looked: anonymous.get(looked, unknown))
            chains[wire.string(parts[2])].append(rule)
    return Held(sets, {name: tuple(rules) for name, rules in chains.items()}, hooks)


def counters(ask: Ask, table: str) -> dict[str, int]:
    """Packets that the counters of each chain have seen, all its rules together."""
    found: dict[str, int] = {}
    for body in ask(batch.GETRULE, wire.text(1, table)):
        parts = wire.attributes(body)
        if wire.string(parts[1]) != table:
            continue
        chain = wire.string(parts[2])
        for _, item in wire.listed(parts.get(4, b"")):
            expression = wire.attributes(item)
            if wire.string(expression.get(1, b"")) == "counter":
                packets = wire.attributes(expression.get(2, b"")).get(2, b"")
                found[chain] = found.get(chain, 0) + _int(packets)
    return found


def flows(ask: Ask, table: str, name: str, set_type: str) -> Iterator[Flow]:
    """What packets have put into a set."""
    for item in _elements(ask, wire.text(1, table), name):
        counter = wire.attributes(item.get(7, b"")).get(2, b"")
        counted = wire.attributes(counter)
        yield Flow(
            elements.key_text(set_type, elements.member(item)),
            _int(counted.get(2, b"")),
            _int(counted.get(1, b"")),
            _int(item.get(5, b"")) / 1000,
        )


def _all(ask: Ask, owner: bytes, name: str, made: NftSet, number: int | None) -> dict[str, str]:
    """Every element of a set, read until that is sure. `Unsettled`.

    A hash table that grows while it is read is not read whole. Newer kernels say how many elements
    there are; with others two readings in a row have to be equal.
    """
    last = None
    for _ in range(_READINGS):
        found = _once(ask, owner, name, made)
        if found == last or (not made.flags and len(found) == number):
            return found
        last = found
        for body in ask(batch.GETSET, owner):
            parts = wire.attributes(body)
            if wire.string(parts[2]) == name:
                number = _number(parts)
    raise Unsettled(f"set {name} could not be read whole {_READINGS} times")


def _once(ask: Ask, owner: bytes, name: str, made: NftSet) -> dict[str, str]:
    """The elements that one reading shows."""
    found: dict[str, str] = {}
    rest: list[Mapping[int, bytes]] = []
    for body in ask(batch.GETELEMENT, owner + wire.text(2, name)):
        listed = wire.attributes(body).get(3, b"")
        keys = elements.plain(made, listed)
        if keys is None:
            rest += [wire.attributes(item) for _, item in wire.listed(listed)]
        else:
            found.update(dict.fromkeys(keys, ""))
    return found | elements.decoded(made, rest)


def _number(parts: Mapping[int, bytes]) -> int | None:
    """How many elements a set has, where the kernel says so (NFTA_SET_COUNT)."""
    return _int(parts[20]) if 20 in parts else None


def _elements(ask: Ask, owner: bytes, name: str) -> Iterator[Mapping[int, bytes]]:
    for body in ask(batch.GETELEMENT, owner + wire.text(2, name)):
        for _, item in wire.listed(wire.attributes(body).get(3, b"")):
            yield wire.attributes(item)


def _int(data: bytes) -> int:
    return int.from_bytes(data, "big")
