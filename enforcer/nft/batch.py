"""A change of the table as netlink messages: what the kernel commits at once. Pure.

What is new comes first, what nobody refers to any more goes last; the entries of pods, which put
everything else in force, are in between and last of the elements. The order means nothing to
packets within a transaction. A change that is too big for one is split so that only the last
transaction touches what packets see.
"""

import itertools
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from enforcer.nft import elements, wire
from enforcer.nft.expressions import Expression, compiled
from enforcer.ruleset import COMMENT, Chain, Change, NftSet

INET = 1
SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
(NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, DELCHAIN, NEWRULE, GETRULE, DELRULE) = range(9)
(NEWSET, GETSET, DELSET, NEWELEMENT, GETELEMENT, DELELEMENT, NEWGEN, GETGEN) = range(9, 17)
# Flags of a table: no packet meets it; nobody else may change it; it outlives its owner.
DORMANT, OWNER, PERSIST = 1, 2, 4
BIGGEST = 8 << 20  # bytes of elements in one transaction
_BEGIN, _END = 16, 17
_HOOKS = {"forward": 2, "output": 3}
_PRIORITY = 10  # filter + 10
_ANONYMOUS = "__set%d"


class Part(NamedTuple):
    """One message of a batch, and what it is about, for errors."""

    kind: int
    flags: int
    body: bytes
    about: str


def header(family: int = INET, resource: int = 0) -> bytes:
    """struct nfgenmsg."""
    return struct.pack("=BB", family, 0) + resource.to_bytes(2, "big")


def table(name: str, flags: int) -> Part:
    """Create a table, or take over one that has lost its owner."""
    body = wire.text(1, name) + wire.number(2, flags) + commented(COMMENT)
    return Part(NEWTABLE, wire.CREATE, body, f"table {name}")


def commented(text: str) -> bytes:
    """A table's comment, among nft's own notes on it."""
    data = text.encode() + b"\0"
    return wire.attribute(6, struct.pack("=BB", 0, len(data)) + data)


def comment(attributes: Mapping[int, bytes]) -> str:
    """That of a table, from the attributes of a dump."""
    told = attributes.get(6, b"")
    return wire.string(told[2:]) if told[:1] == b"\0" else ""


def gone_table(name: str) -> Part:
    return Part(DELTABLE, 0, wire.text(1, name), f"table {name}")


def parts(name: str, change: Change, kinds: Mapping[str, NftSet]) -> Iterator[list[Part]]:
    """The messages of a change, a list for each transaction; `kinds` has every set concerned."""
    made = list(_objects(name, change))
    size = 0
    for set_name in sorted({*change.added, *change.removed}, key=_pods_last):
        for part in _elements(name, set_name, change, kinds[set_name]):
            if size > BIGGEST and not _pods_last(set_name)[0]:
                yield made
                made, size = [], 0
            made.append(part)
            size += len(part.body)
    made.extend(_removals(name, change))
    if made:
        yield made


def encode(listed: Sequence[Part], first: int) -> bytes:
    """A batch. Messages are numbered from `first`; the last of them is acknowledged."""
    begin = wire.message(_BEGIN, wire.REQUEST, 0, header(0, SUBSYSTEM))
    last = len(listed) - 1
    body = [
        wire.message(
            SUBSYSTEM << 8 | part.kind,
            wire.REQUEST | part.flags | (wire.ACK if index == last else 0),
            first + index,
            header() + part.body,
        )
        for index, part in enumerate(listed)
    ]
    end = wire.message(_END, wire.REQUEST, first + len(listed), header(0, SUBSYSTEM))
    return b"".join((begin, *body, end))


def _pods_last(name: str) -> tuple[bool, str]:
    """What packets to pods meet first comes last: nothing is denied before all is there."""
    return name.startswith(("cidr", "iso", "pods", "self")), name


def _objects(table_name: str, change: Change) -> Iterator[Part]:
    numbers = itertools.count(1)
    owner = wire.text(1, table_name)
    for name, made in sorted(change.sets.items()):
        body = owner + wire.text(2, name) + wire.number(10, next(numbers))
        yield Part(NEWSET, wire.CREATE, body + elements.declaration(made), f"set {name}")
    for name, chain in sorted(change.chains.items()):
        body = owner + wire.text(3, name) + (_hook(chain) if chain.hook else b"")
        yield Part(NEWCHAIN, wire.CREATE, body, f"chain {name}")
    for name in sorted(change.rules):
        yield Part(DELRULE, 0, owner + wire.text(2, name), f"rules of chain {name}")
    rules = {name: chain.rules for name, chain in change.chains.items()} | dict(change.rules)
    for name, listed in sorted(rules.items()):
        for rule in listed:
            yield from _rule(owner, name, rule, numbers)


def _hook(chain: Chain) -> bytes:
    hook = chain.hook.split(" ")[3]
    where = wire.number(1, _HOOKS[hook]) + wire.number(2, _PRIORITY)
    return wire.nested(4, where) + wire.number(5, 1) + wire.text(7, "filter")


def hook_text(attributes: Mapping[int, bytes]) -> str:
    """The declaration of a base chain, from the attributes of a dump; empty for another chain."""
    if 4 not in attributes:
        return ""
    where = wire.attributes(attributes[4])
    hook, priority = (int.from_bytes(where.get(key, b""), "big", signed=True) for key in (1, 2))
    policy = int.from_bytes(attributes.get(5, b""), "big")
    names = {number: name for name, number in _HOOKS.items()}
    return (
        f"type {wire.string(attributes.get(7, b''))} hook {names.get(hook, hook)} priority filter"
        f" {priority:+d}; policy {'accept' if policy == 1 else 'drop'};"
    ).replace("+", "+ ")


def _rule(owner: bytes, chain: str, rule: str, numbers: Iterator[int]) -> Iterator[Part]:
    listed = []
    for item in compiled(rule):
        data = item.data
        if item.members:
            number = next(numbers)
            yield from _anonymous(owner, item, number)
            data = wire.text(1, _ANONYMOUS) + data + wire.number(4, number)
        listed.append(wire.nested(1, wire.text(1, item.name), wire.nested(2, data)))
    body = owner + wire.text(2, chain) + wire.nested(4, *listed)
    yield Part(NEWRULE, wire.CREATE | wire.APPEND, body, f"chain {chain}: {rule}")


def _anonymous(owner: bytes, item: Expression, number: int) -> Iterator[Part]:
    named = owner + wire.text(2, _ANONYMOUS)
    yield Part(
        NEWSET,
        wire.CREATE,
        named
        + wire.number(10, number)
        + wire.number(3, elements.ANONYMOUS | elements.CONSTANT)
        + wire.number(4, item.key_type)
        + wire.number(5, len(item.members[0]))
        + wire.nested(9, wire.number(1, len(item.members))),
        "a set of a rule",
    )
    keys = (wire.nested(1, wire.nested(1, wire.attribute(1, key))) for key in item.members)
    body = named + wire.number(4, number) + wire.nested(3, *keys)
    yield Part(NEWELEMENT, wire.CREATE, body, "a set of a rule")


def _elements(table_name: str, name: str, change: Change, made: NftSet) -> Iterator[Part]:
    """A key that gets another verdict is deleted and added: one transaction, so never absent."""
    named = wire.text(1, table_name) + wire.text(2, name)
    removed = elements.encoded(made, change.removed.get(name, {}), values=False)
    for listed in removed:
        yield Part(DELELEMENT, 0, named + wire.nested(3, listed), f"elements of {name}")
    for listed in elements.encoded(made, change.added.get(name, {}), values=True):
        yield Part(NEWELEMENT, wire.CREATE, named + wire.nested(3, listed), f"elements of {name}")


def _removals(table_name: str, change: Change) -> Iterator[Part]:
    """Users before what they use: classes, their maps, peer chains, peer sets."""
    owner = wire.text(1, table_name)
    for name in change.gone_chains:
        yield Part(DELRULE, 0, owner + wire.text(2, name), f"rules of chain {name}")
    for name in change.gone_sets:
        yield Part(DELELEMENT, 0, owner + wire.text(2, name), f"elements of {name}")
        yield Part(DELSET, 0, owner + wire.text(2, name), f"set {name}")
    for name in change.gone_chains:
        yield Part(DELCHAIN, 0, owner + wire.text(3, name), f"chain {name}")
