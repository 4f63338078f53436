"""Rules as the kernel sees them: the few statements that we write, compiled to its expressions.

The words are nft's, and so is the code: a test loads every rule through nft and compares. What is
compiled here equals what the kernel shows of a loaded rule, so that a dump can be compared with
what was meant. Attributes are those of <linux/netfilter/nf_tables.h>. Pure.
"""

import re
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from enforcer.nft import wire

ACCEPT, DROP = 1, 0
JUMP, GOTO = -3 & 0xFFFFFFFF, -4 & 0xFFFFFFFF
CODES = {"jump": JUMP, "goto": GOTO, "accept": ACCEPT, "drop": DROP}
PROTOCOLS = {"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "ipv6-icmp": 58, "sctp": 132}
_STATES = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
_ICMPV6 = {
    "mld-listener-query": 130,
    "mld-listener-report": 131,
    "mld-listener-done": 132,
    "nd-router-solicit": 133,
    "nd-router-advert": 134,
    "nd-neighbor-solicit": 135,
    "nd-neighbor-advert": 136,
    "nd-redirect": 137,
    "mld2-listener-report": 143,
}
_TCP_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "ack": 16}
_NFPROTO, _L4PROTO = 15, 16
_CT_STATE, _CT_DIRECTION, _CT_PROTOCOL, _CT_PROTO_SRC = 0, 1, 10, 11
_CT_SRC = {"ip": 19, "ip6": 21}
_DIRECTIONS = {"original": 0, "reply": 1}
_FAMILY = {"ip": 2, "ip6": 10}
_WORDS = {"ip": 1, "ip6": 4}  # registers of four bytes that an address takes
# Where an address stands in its header.
_ADDRESS = {"ip saddr": (12, 4), "ip daddr": (16, 4), "ip6 saddr": (8, 16), "ip6 daddr": (24, 16)}
_NETWORK, _TRANSPORT = 1, 2
_EQUAL, _UNEQUAL = 0, 1
_INET_PROTO, _ICMPV6_TYPE = 12, 29  # nft's numbers of what a set holds


class Expression(NamedTuple):
    """`members` are the keys of an anonymous set that a lookup has of its own, of `key_type`."""

    name: str
    data: bytes
    members: tuple[bytes, ...] = ()
    key_type: int = 0


class NoStatement(ValueError):
    """A rule says something that cannot be compiled."""


@lru_cache(maxsize=4096)
def compiled(rule: str) -> tuple[Expression, ...]:
    """The expressions of a rule in nft's words. `NoStatement`."""
    found: list[Expression] = []
    rest = rule
    while rest:
        for pattern, build in _STATEMENTS:
            match = pattern.match(rest)
            if match:
                found += build(*match.groups())
                rest = rest[match.end() :].lstrip(" ")
                break
        else:
            raise NoStatement(f"{rule!r}: {rest!r} is none of the statements that are written here")
    return tuple(found)


def verdict_data(verdict: str) -> bytes:
    """`accept`, `drop`, `jump CHAIN` or `goto CHAIN` as the value of an element or a rule."""
    verb, _, chain = verdict.partition(" ")
    target = wire.text(2, chain) if chain else b""
    return wire.attribute(2, wire.number(1, CODES[verb]) + target)


def verdict_text(data: bytes) -> str:
    """The words for a verdict's data."""
    parts = wire.attributes(wire.attributes(data).get(2, b""))
    code = int.from_bytes(parts.get(1, b""), "big")
    word = next((word for word, known in CODES.items() if known == code), f"verdict-{code}")
    return f"{word} {wire.string(parts[2])}" if 2 in parts else word


def _register(word: int) -> int:
    """The number of the register that begins at a word of four bytes."""
    return 1 + word // 4 if word % 4 == 0 else 8 + word


def _meta(key: int) -> Expression:
    return Expression("meta", wire.number(2, key) + wire.number(1, 1))


def _ct(key: int, word: int = 0, direction: str = "") -> Expression:
    data = wire.number(1, _register(word)) + wire.number(2, key)
    if direction:
        data += wire.number(3, _DIRECTIONS[direction], 1)
    return Expression("ct", data)


def _cmp(operation: int, value: bytes) -> Expression:
    data = wire.number(1, 1) + wire.number(2, operation)
    return Expression("cmp", data + wire.attribute(3, wire.attribute(1, value)))


def _masked(mask: bytes) -> Expression:
    return Expression(
        "bitwise",
        wire.number(1, 1)
        + wire.number(2, 1)
        + wire.number(3, len(mask))
        + wire.number(6, 0)
        + wire.attribute(4, wire.attribute(1, mask))
        + wire.attribute(5, wire.attribute(1, bytes(len(mask)))),
    )


def _payload(base: int, offset: int, length: int) -> Expression:
    data = wire.number(1, 1) + wire.number(2, base) + wire.number(3, offset)
    return Expression("payload", data + wire.number(4, length))


def _lookup(name: str, *, verdict: bool = False) -> Expression:
    target = wire.number(3, 0) if verdict else b""
    data = wire.text(1, name) + wire.number(2, 1) + target + wire.number(5, 0)
    return Expression("lookup", data)


def _one_of(values: Iterator[int], key_type: int) -> Expression:
    members = tuple(sorted(bytes((value,)) for value in values))
    return Expression("lookup", wire.number(2, 1) + wire.number(5, 0), members, key_type)


def _words(listed: str, numbers: dict[str, int]) -> Iterator[int]:
    for word in listed.split(","):
        yield numbers[word.strip()]


def _state(listed: str) -> list[Expression]:
    bits = sum(_words(listed, _STATES))
    mask = struct.pack("=I", bits)
    return [_ct(_CT_STATE), _masked(mask), _cmp(_UNEQUAL, bytes(4))]


def _direction(name: str) -> list[Expression]:
    return [_ct(_CT_DIRECTION), _cmp(_EQUAL, bytes((_DIRECTIONS[name],)))]


def _l4proto(listed: str | None, one: str | None) -> list[Expression]:
    if one:
        return [_meta(_L4PROTO), _cmp(_EQUAL, bytes((PROTOCOLS[one],)))]
    return [_meta(_L4PROTO), _one_of(_words(listed or "", PROTOCOLS), _INET_PROTO)]


def _icmpv6(listed: str) -> list[Expression]:
    return [
        _meta(_NFPROTO),
        _cmp(_EQUAL, bytes((_FAMILY["ip6"],))),
        _meta(_L4PROTO),
        _cmp(_EQUAL, bytes((PROTOCOLS["ipv6-icmp"],))),
        _payload(_TRANSPORT, 0, 1),
        _one_of(_words(listed, _ICMPV6), _ICMPV6_TYPE),
    ]


def _tcp_flags(mask: str, operator: str, value: str) -> list[Expression]:
    bits = sum(_TCP_FLAGS[flag] for flag in mask.strip("()").split("|"))
    operation = _EQUAL if operator == "==" else _UNEQUAL
    wanted = bytes((_TCP_FLAGS[value],))
    return [_payload(_TRANSPORT, 13, 1), _masked(bytes((bits,))), _cmp(operation, wanted)]


def _tcp(*arguments: str) -> list[Expression]:
    # Without `meta l4proto tcp` before it nft looks at the protocol itself.
    return [*_l4proto(None, "tcp"), *_tcp_flags(*arguments)]


def _address(field: str, name: str) -> list[Expression]:
    family = _FAMILY[field.split()[0]]
    return [
        _meta(_NFPROTO),
        _cmp(_EQUAL, bytes((family,))),
        _payload(_NETWORK, *_ADDRESS[field]),
        _lookup(name),
    ]


def _tuple_address(direction: str, ip: str, vmap: str | None, name: str) -> list[Expression]:
    return [_ct(_CT_SRC[ip], 0, direction), _lookup(name, verdict=bool(vmap))]


def _pair(ip: str) -> list[Expression]:
    key = _CT_SRC[ip]
    return [_ct(key, 0, "original"), _ct(key, _WORDS[ip], "reply")]


def _pair_in(ip: str, name: str) -> list[Expression]:
    return [*_pair(ip), _lookup(name)]


def _ported(name: str) -> list[Expression]:
    return [_ct(_CT_PROTOCOL), _ct(_CT_PROTO_SRC, 1, "reply"), _lookup(name, verdict=True)]


def _update(name: str, ip: str) -> list[Expression]:
    words = 2 * _WORDS[ip]
    data = wire.number(4, 1) + wire.number(3, 1) + wire.text(1, name)
    return [
        *_pair(ip),
        _ct(_CT_PROTOCOL, words),
        _ct(_CT_PROTO_SRC, words + 1, "reply"),
        Expression("dynset", data + wire.number(6, 0, 8) + wire.number(9, 0)),
    ]


def _limit(rate: str, burst: str) -> list[Expression]:
    data = wire.number(1, int(rate), 8) + wire.number(2, 1, 8) + wire.number(3, int(burst))
    return [Expression("limit", data + wire.number(4, 0) + wire.number(5, 0))]


def _log(prefix: str, group: str, snaplen: str) -> list[Expression]:
    data = wire.text(2, prefix) + wire.number(1, int(group), 2) + wire.number(3, int(snaplen))
    return [Expression("log", data)]


def _counter() -> list[Expression]:
    return [Expression("counter", b"")]


def _reset() -> list[Expression]:
    return [Expression("reject", wire.number(1, 1))]


def _local_source() -> list[Expression]:
    data = wire.number(1, 1) + wire.number(2, 3) + wire.number(3, 1)
    return [Expression("fib", data), _cmp(_EQUAL, struct.pack("=I", 2))]


def _verdict(verdict: str) -> list[Expression]:
    return [Expression("immediate", wire.number(1, 0) + wire.attribute(2, verdict_data(verdict)))]


_FLAGS = r"tcp flags & (\([a-z|]+\)|\w+) (==|!=) (\w+)"
_KEY = r"ct original (?P<ip>ip6?) saddr \. ct reply (?P=ip) saddr"
_STATEMENTS: list[tuple[re.Pattern[str], Callable[..., list[Expression]]]] = [
    (re.compile(pattern + r"(?= |$)"), build)
    for pattern, build in (
        (r"ct state ([\w,]+)", _state),
        (r"ct direction (original|reply)", _direction),
        (
            rf"meta l4proto tcp {_FLAGS}",
            lambda *found: [*_l4proto(None, "tcp"), *_tcp_flags(*found)],
        ),
        (r"meta l4proto (?:\{ ([^}]+) \}|([\w-]+))", _l4proto),
        (_FLAGS, _tcp),
        (r"icmpv6 type \{ ([^}]+) \}", _icmpv6),
        (r"(ip6? [sd]addr) @(\w+)", _address),
        (rf"{_KEY} @(\w+)", _pair_in),
        (r"ct (original|reply) (ip6?) saddr (vmap )?@(\w+)", _tuple_address),
        (r"ct protocol \. ct reply proto-src vmap @(\w+)", _ported),
        (
            rf"update @(\w+) \{{ {_KEY} \. ct protocol \. ct reply proto-src counter \}}",
            _update,
        ),
        (r"limit rate (\d+)/second burst (\d+) packets", _limit),
        (r'log prefix "([^"]+)" group (\d+) snaplen (\d+)', _log),
        (r"counter", _counter),
        (r"reject with tcp reset", _reset),
        (r"fib saddr type local", _local_source),
        (r"((?:jump|goto) \w+|accept|drop)", _verdict),
    )
]


def shown(
    data: bytes, anonymous: Callable[[str], tuple[tuple[bytes, ...], int]]
) -> tuple[Expression, ...]:
    """The expressions of a rule as a dump shows them.

    `anonymous` has the sorted keys, and their type, of a set without a name of its own.
    """
    found = []
    for _, item in wire.listed(data):
        parts = wire.attributes(item)
        name, content = wire.string(parts.get(1, b"")), parts.get(2, b"")
        if name == "counter":
            content = b""
        elif name == "lookup":
            looked_up = wire.string(wire.attributes(content).get(1, b""))
            if looked_up.startswith("__"):
                kept = (wire.attribute(k, v) for k, v in wire.listed(content) if k != 1)
                found.append(Expression(name, b"".join(kept), *anonymous(looked_up)))
                continue
        found.append(Expression(name, content))
    return tuple(found)
