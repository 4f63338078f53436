"""Netlink on the wire: headers and attributes. Pure.

The formats are those of <linux/netlink.h> and <linux/netfilter/nfnetlink.h>: a message is a header
and attributes, an attribute is its length, its type and its payload, padded to four bytes.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

ERROR, DONE = 2, 3
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
CREATE, EXCLUSIVE, APPEND = 0x400, 0x200, 0x800
NESTED = 0x8000
LONGEST = 0xFFFF  # bytes of one attribute, header included

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class Message(NamedTuple):
    """`kind` is the subsystem and the type; `port` is the socket that caused it."""

    kind: int
    flags: int
    sequence: int
    port: int
    body: bytes


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram. What is cut off is left out."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, port = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            return
        yield Message(kind, flags, sequence, port, data[offset + _HEADER.size : offset + length])
        offset += (length + 3) & ~3


def attribute(kind: int, payload: bytes) -> bytes:
    """`ValueError` for a payload that is too long for its length field."""
    length = len(payload) + 4
    if length > LONGEST:
        raise ValueError(f"an attribute of {length} bytes is longer than {LONGEST}")
    return _ATTRIBUTE.pack(length, kind) + payload + _PADDING[length & 3]


def nested(kind: int, *children: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(children))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int, size: int = 4) -> bytes:
    """A number in network order, of 1, 2, 4 or 8 bytes."""
    return attribute(kind, value.to_bytes(size, "big"))


def listed(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in order, as type without flags and payload."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes by type; of several of one type, the last."""
    return dict(listed(data))


def string(payload: bytes) -> str:
    return payload.partition(b"\0")[0].decode(errors="replace")
