"""Who talks to whom, read from the first bytes of an IP packet.

For the packets that the kernel logs. They are whatever somebody sent to a pod, cut off at the
snap length, so every length in them is checked, and what cannot be read is None. Extension headers
are skipped as conntrack skips them (Linux, `ipv6_skip_exthdr`). Pure.
"""

from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

TCP, UDP, SCTP = 6, 17, 132
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION = 0, 43, 44, 51, 60
EXTENSIONS = frozenset({HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION})
# As `policy.Protocol` says them, and the few others that a person may know.
NAMES = {
    1: "ICMP",
    TCP: "TCP",
    UDP: "UDP",
    47: "GRE",
    50: "ESP",
    51: "AH",
    58: "ICMP",
    SCTP: "SCTP",
}


class Headers(NamedTuple):
    """Addresses as `ipaddress` prints them; protocols without a name are their number.

    `port` is the destination's, and None where there is none: in a protocol without ports, and in
    every fragment but the first.
    """

    source: str
    destination: str
    protocol: str
    port: int | None


def read(packet: bytes) -> Headers | None:
    """The headers; None for what is no IP packet, or cut off before its ports."""
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        return _ipv4(packet)
    return _ipv6(packet) if version == 6 else None


def _ipv4(packet: bytes) -> Headers | None:
    start = (packet[0] & 0x0F) * 4
    if start < 20 or len(packet) < start:
        return None
    total = int.from_bytes(packet[2:4])
    offset = int.from_bytes(packet[6:8]) & 0x1FFF
    return _headers(
        str(IPv4Address(packet[12:16])),
        str(IPv4Address(packet[16:20])),
        packet[9],
        packet[start:total],
        first=not offset,
    )


def _ipv6(packet: bytes) -> Headers | None:
    if len(packet) < 40:
        return None
    protocol, start, first = packet[6], 40, True
    while protocol in EXTENSIONS:
        if not first or len(packet) < start + 8:
            return None
        extension, length = protocol, packet[start + 1]
        protocol = packet[start]
        if extension == FRAGMENT:
            first = not int.from_bytes(packet[start + 2 : start + 4]) >> 3
            start += 8
        elif extension == AUTHENTICATION:
            start += (length + 2) * 4
        else:
            start += (length + 1) * 8
    source, destination = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    end = 40 + int.from_bytes(packet[4:6])
    return _headers(str(source), str(destination), protocol, packet[start:end], first=first)


def _headers(
    source: str, destination: str, protocol: int, payload: bytes, *, first: bool
) -> Headers | None:
    port = None
    if first and protocol in (TCP, UDP, SCTP):
        if len(payload) < 4:
            return None
        port = int.from_bytes(payload[2:4])
    return Headers(source, destination, NAMES.get(protocol, str(protocol)), port)
