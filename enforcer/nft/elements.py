"""Sets and their elements on the wire: from nft's words to the kernel's keys, and back. Pure.

A key is its fields one after the other, each padded to four bytes where there are several. The
numbers of the types are nft's own (`nft describe`), so that `nft list` shows what was meant.
"""

import re
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network

from enforcer.nft import wire
from enforcer.nft.expressions import PROTOCOLS, verdict_data, verdict_text
from enforcer.ruleset import NftSet

ANONYMOUS, CONSTANT, INTERVAL, MAP, TIMEOUT, EVAL, CONCAT = 1, 2, 4, 8, 16, 32, 128
VERDICT_TYPE = 0xFFFFFF00
_END = 1  # the flag of an element that ends an interval
_BIG_ENDIAN = 2
_CHUNK = 60_000  # bytes of elements in one attribute, whose length has 16 bits
_NAMES = {number: name for name, number in PROTOCOLS.items()}
_DYNAMIC = re.compile(r"flags dynamic,timeout; size (\d+); timeout (\d+)s; counter")

Encode = Callable[[str], bytes]
Decode = Callable[[bytes], str]


def _ipv6(text: str) -> str:
    """As `ipaddress` prints it, which knows no dots."""
    return str(ip_address(text)) if "." in text else text


# By nft's name: its number, how many bytes it takes, and both ways.
_TYPES: Mapping[str, tuple[int, int, Encode, Decode]] = {
    "ipv4_addr": (
        7,
        4,
        lambda text: socket.inet_pton(socket.AF_INET, text),
        lambda data: socket.inet_ntop(socket.AF_INET, data),
    ),
    "ipv6_addr": (
        8,
        16,
        lambda text: socket.inet_pton(socket.AF_INET6, text),
        lambda data: _ipv6(socket.inet_ntop(socket.AF_INET6, data)),
    ),
    "inet_proto": (
        12,
        1,
        lambda text: bytes((PROTOCOLS[text],)),
        lambda data: _NAMES.get(data[0], str(data[0])),
    ),
    "inet_service": (
        13,
        2,
        lambda text: int(text).to_bytes(2, "big"),
        lambda data: str(int.from_bytes(data, "big")),
    ),
}


def declaration(made: NftSet) -> bytes:
    """The attributes of a named set, its name and its table apart."""
    fields = made.type.split(" . ")
    type_number = size = 0
    for name in fields:
        type_number = type_number << 6 | _TYPES[name][0]
        size += _padded(_TYPES[name][1]) if len(fields) > 1 else _TYPES[name][1]
    flags, description, more = 0, b"", b""
    if made.flags == "flags interval":
        flags |= INTERVAL
        if len(fields) > 1:
            flags |= CONCAT
            lengths = (wire.nested(1, wire.number(1, _TYPES[name][1])) for name in fields)
            description = wire.nested(2, *lengths)
    elif found := _DYNAMIC.fullmatch(made.flags):
        flags |= TIMEOUT | EVAL
        description = wire.number(1, int(found[1]))
        counter = wire.text(1, "counter") + wire.nested(2)
        more = wire.number(11, int(found[2]) * 1000, 8) + wire.nested(17, counter)
    elif made.flags:
        raise ValueError(f"{made.flags!r} is nothing that a set can be declared with here")
    order = 0 if len(fields) > 1 else _BIG_ENDIAN
    told = _told(0, order)
    if made.verdicts:
        flags |= MAP
        more += wire.number(6, VERDICT_TYPE)
        told += _told(1, 0)
    return (
        wire.number(3, flags)
        + wire.number(4, type_number)
        + wire.number(5, size)
        + (wire.nested(9, description) if description else b"")
        + more
        + wire.attribute(13, told)
    )


def kind(attributes: Mapping[int, bytes]) -> tuple[str, str, bool]:
    """Type, flags and whether it is a map, from the attributes of a dump."""
    number, flags = (_int(attributes.get(key, b"")) for key in (4, 3))
    names = {known: name for name, (known, *_) in _TYPES.items()}
    fields: list[str] = []
    while number:
        fields.insert(0, names.get(number & 63, str(number & 63)))
        number >>= 6
    words = []
    if flags & INTERVAL:
        words.append("flags interval")
    if flags & EVAL:
        size = _int(wire.attributes(attributes.get(9, b"")).get(1, b""))
        seconds = _int(attributes.get(11, b"")) // 1000
        words.append(f"flags dynamic,timeout; size {size}; timeout {seconds}s; counter")
    return " . ".join(fields), "; ".join(words), bool(flags & MAP)


def encoded(made: NftSet, elements: Mapping[str, str], *, values: bool) -> Iterator[bytes]:
    """Lists of elements, each short enough for one attribute. `values`: with their verdicts."""
    if made.flags == "flags interval":
        pieces = _intervals(made, elements, values=values)
    else:
        pieces = _singles(made, elements, values=values)
    chunk: list[bytes] = []
    size = 0
    for piece in pieces:
        if size + len(piece) > _CHUNK:
            yield b"".join(chunk)
            chunk, size = [], 0
        chunk.append(piece)
        size += len(piece)
    if chunk:
        yield b"".join(chunk)


def decoded(made: NftSet, items: Iterable[Mapping[int, bytes]]) -> dict[str, str]:
    """The elements of a set from the attributes that a dump has for each."""
    names = made.type.split(" . ")
    if made.flags == "flags interval" and len(names) == 1:
        return dict.fromkeys(_networks(items), "")
    found = {}
    for item in items:
        if 1 not in item:
            raise ValueError("an element without a key, for whatever is not in the set")
        key = _text(names, _value(item[1]))
        if 10 in item:
            high = _text(names, _value(item[10]))
            parts = zip(key.split(" . "), high.split(" . "), strict=True)
            key = " . ".join(low if low == end else f"{low}-{end}" for low, end in parts)
        found[key] = verdict_text(item[2]) if 2 in item else ""
    return found


def plain(made: NftSet, listed: bytes) -> list[str] | None:
    """The elements of a set that are nothing but keys, fast; None where one is more than that."""
    if made.verdicts or made.flags:
        return None
    names = made.type.split(" . ")
    _, length = _encoder(made.type)
    head = _key_header(length)
    step = len(head) + _padded(length)
    starts = range(0, len(listed), step)
    if len(listed) % step or any(listed[at : at + len(head)] != head for at in starts):
        return None
    keys = (listed[at + len(head) : at + len(head) + length] for at in starts)
    if len(names) == 1:
        return list(map(_TYPES[made.type][3], keys))
    return [_text(names, key) for key in keys]


def _key_header(length: int) -> bytes:
    """What stands before a key: an element of which it is all, the key, the value."""
    value = 4 + length
    return struct.pack("=HHHHHH", 8 + _padded(value), 1, 4 + _padded(value), 1, value, 1)


def key_text(set_type: str, data: bytes) -> list[str]:
    """The fields of a key."""
    return _text(set_type.split(" . "), data).split(" . ")


def member(attributes: Mapping[int, bytes]) -> bytes:
    """The key of an element as it is."""
    return _value(attributes[1])


def _singles(made: NftSet, elements: Mapping[str, str], *, values: bool) -> Iterator[bytes]:
    encode, length = _encoder(made.type)
    value_header = struct.pack("=HH", length + 4, 1)
    key_length = 4 + _padded(length + 4)
    padding = bytes(_padded(length) - length)
    headers: dict[str, tuple[bytes, bytes]] = {}
    for key, verdict in elements.items():
        around = headers.get(verdict)
        if around is None:
            data = verdict_data(verdict) if values and verdict else b""
            tail = wire.nested(2, data) if data else b""
            start = struct.pack(
                "=HHHH", 4 + key_length + len(tail), 1 | wire.NESTED, key_length, 1 | wire.NESTED
            )
            around = headers[verdict] = start + value_header, padding + tail
        yield around[0] + encode(key) + around[1]


def _intervals(made: NftSet, elements: Mapping[str, str], *, values: bool) -> Iterator[bytes]:
    names = made.type.split(" . ")
    for key, verdict in elements.items():
        if len(names) == 1:
            yield from _network(key)
            continue
        parts = [part.partition("-") for part in key.split(" . ")]
        low = _key(names, [low for low, _, _ in parts])
        high = _key(names, [high or low for low, _, high in parts])
        data = wire.nested(2, verdict_data(verdict)) if values and verdict else b""
        yield wire.nested(
            1,
            wire.nested(1, wire.attribute(1, low)),
            wire.nested(10, wire.attribute(1, high)),
            data,
        )


def _network(cidr: str) -> Iterator[bytes]:
    """A range of addresses as its first and the one after its last, which is none at the end."""
    network = ip_network(cidr)
    yield wire.nested(1, wire.nested(1, wire.attribute(1, network.network_address.packed)))
    after = int(network.broadcast_address) + 1
    if after < 1 << network.max_prefixlen:
        packed = after.to_bytes(network.max_prefixlen // 8, "big")
        yield wire.nested(1, wire.nested(1, wire.attribute(1, packed)), wire.number(3, _END))


def _networks(items: Iterable[Mapping[int, bytes]]) -> Iterator[str]:
    # Where one range ends and the next begins, the end comes first.
    bounds = sorted((_value(item[1]), -(_int(item.get(3, b"")) & _END)) for item in items)
    start: bytes | None = None
    for key, flags in bounds:
        if start is not None:
            yield from _summary(start, int.from_bytes(key, "big") - 1)
        start = None if flags else key
    if start is not None:
        yield from _summary(start, (1 << 8 * len(start)) - 1)


def _summary(start: bytes, last: int) -> Iterator[str]:
    """The range as a CIDR; one that is none is shown as a range, so that it differs."""
    first = int.from_bytes(start, "big")
    size = last - first + 1
    address = ip_address(start)
    if size & (size - 1) == 0 and first % size == 0:
        yield f"{address}/{address.max_prefixlen - size.bit_length() + 1}"
    else:
        yield f"{address}-{ip_address(last.to_bytes(len(start), 'big'))}"


def _encoder(set_type: str) -> tuple[Encode, int]:
    """How a key is encoded, and its length."""
    names = set_type.split(" . ")
    if len(names) == 1:
        _, length, encode, _ = _TYPES[set_type]
        return encode, length
    length = sum(_padded(_TYPES[name][1]) for name in names)
    return (lambda text: _key(names, text.split(" . "))), length


def _key(names: list[str], parts: list[str]) -> bytes:
    key = b""
    for name, part in zip(names, parts, strict=True):
        value = _TYPES[name][2](part)
        key += value + bytes(_padded(len(value)) - len(value))
    return key


def _text(names: list[str], data: bytes) -> str:
    if len(names) == 1:
        return _TYPES[names[0]][3](data)
    parts, offset = [], 0
    for name in names:
        _, length, _, decode = _TYPES[name]
        parts.append(decode(data[offset : offset + length]))
        offset += _padded(length)
    return " . ".join(parts)


def _value(data: bytes) -> bytes:
    """What NFTA_DATA_VALUE holds."""
    (length,) = struct.unpack_from("=H", data)
    return data[4:length]


def _told(what: int, value: int) -> bytes:
    """A piece of nft's own notes on a set."""
    return struct.pack("=BBI", what, 4, value)


def _padded(length: int) -> int:
    return (length + 3) & ~3


def _int(data: bytes) -> int:
    return int.from_bytes(data, "big")
