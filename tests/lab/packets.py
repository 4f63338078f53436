"""Packets as no socket sends them: fragments, extension headers, odd protocols; and who gets them.

A packet carries a mark, and has arrived where a frame with it came to the device of a pod.
"""

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from tests.lab.inside import socket_in
from tests.lab.world import Host

ICMP, TCP, UDP, GRE, ESP, ICMPV6, NOTHING, DESTINATION, UDPLITE, UNKNOWN = (
    *(1, 6, 17, 47, 50, 58, 59, 60, 136, 253),
)
HOP_BY_HOP, ROUTING, FRAGMENT = 0, 43, 44
CLIENT_PORT = 41_000
_ETH_P_ALL = 3
_IPV6_HDRINCL = 36
_SO_RCVBUFFORCE = 33
_HEARD = 4 << 20  # bytes, before the event loop comes round to it
_MARK = 8  # bytes
WITHIN = 5.0  # seconds for what should arrive
ARRIVES = 0.3  # seconds until what has not arrived does not; on one machine it takes under 1 ms

Want = Sequence[set[str]]  # for each mark the hosts that it should come to


def mark() -> bytes:
    return os.urandom(_MARK)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def datagram(source: str, target: str, port: int, data: bytes, protocol: int = UDP) -> bytes:
    """UDP, or UDP-lite (RFC 3828) whose checksum covers everything, as the kernel sends it."""
    length = 8 + len(data)
    ends = ip_address(source).packed + ip_address(target).packed
    pseudo = ends + struct.pack("!II", length, protocol)
    head = struct.pack("!HHHH", CLIENT_PORT, port, length, 0)
    return head[:6] + struct.pack("!H", checksum(pseudo + head + data) or 0xFFFF) + data


def segment(source: str, target: str, port: int, flags: int, data: bytes) -> bytes:
    """TCP with any flags, of no connection."""
    ends = ip_address(source).packed + ip_address(target).packed
    pseudo = ends + struct.pack("!II", 20 + len(data), TCP)
    head = struct.pack("!HHIIBBHHH", CLIENT_PORT, port, 1000, 2000, 5 << 4, flags, 1024, 0, 0)
    found = checksum(pseudo + head + data)
    return head[:16] + struct.pack("!H", found) + head[18:] + data


def echo(source: str, target: str, *, reply: bool, data: bytes) -> bytes:
    """An echo request or reply of the family."""
    six = ":" in source
    kind = (129 if reply else 128) if six else (0 if reply else 8)
    pseudo = ip_address(source).packed + ip_address(target).packed if six else b""
    pseudo += struct.pack("!II", 8 + len(data), ICMPV6) if six else b""
    head = struct.pack("!BBHHH", kind, 0, 0, 77, 1)
    return head[:2] + struct.pack("!H", checksum(pseudo + head + data)) + head[4:] + data


def ipv4(
    source: str,
    target: str,
    protocol: int,
    payload: bytes,
    *,
    options: bytes = b"",
    identity: int = 0,
    offset: int = 0,
    more: bool = False,
) -> bytes:
    """The kernel adds the checksum, and the length. `offset` is in bytes."""
    words = 5 + len(options) // 4
    return (
        struct.pack(
            "!BBHHHBBH4s4s",
            0x40 | words,
            0,
            words * 4 + len(payload),
            identity,
            (0x2000 if more else 0) | offset // 8,
            64,
            protocol,
            0,
            ip_address(source).packed,
            ip_address(target).packed,
        )
        + options
        + payload
    )


def ipv6(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
    return head + ip_address(source).packed + ip_address(target).packed + payload


def extension(following: int, *, routing: bool = False) -> bytes:
    """A header of eight bytes that says nothing: padding, or a route that is at its end."""
    return bytes([following, 0, *((UNKNOWN, 0, 0, 0, 0, 0) if routing else (1, 4, 0, 0, 0, 0))])


def fragment(following: int, payload: bytes, *, identity: int, offset: int, more: bool) -> bytes:
    """A fragment header of IPv6 and what is behind it."""
    return struct.pack("!BBHI", following, 0, offset | more, identity) + payload


def send(host: Host, packets: Iterable[bytes]) -> None:
    """Send packets with their IP headers, in this order, from a host."""
    for packet in packets:
        six = packet[0] >> 4 == 6
        family = socket.AF_INET6 if six else socket.AF_INET
        with socket_in(host.netns, family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
            if six:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
                sock.sendto(packet, (str(ip_address(packet[24:40])), 0))
            else:
                sock.sendto(packet, (str(ip_address(packet[16:20])), 0))


@dataclass(slots=True)
class Ear:
    """What has come to the devices of some hosts."""

    heard: list[tuple[str, bytes]] = field(default_factory=list)

    async def arrived(self, marks: Sequence[bytes], *, want: Want = ()) -> list[set[str]]:
        """For each mark the hosts that it has come to.

        What should come may take longer, for the machine may be busy.
        """
        deadline = time.monotonic() + WITHIN
        while time.monotonic() < deadline and not all(map(set.issuperset, self._to(marks), want)):
            await asyncio.sleep(0.01)
        await asyncio.sleep(ARRIVES)
        return self._to(marks)

    def _to(self, marks: Sequence[bytes]) -> list[set[str]]:
        return [{host for host, frame in self.heard if one in frame} for one in marks]


@contextlib.contextmanager
def listening(hosts: Iterable[Host]) -> Iterator[Ear]:
    """Hear every frame that comes to hosts, in a context; the own ones are left out."""
    ear, loop, sockets = Ear(), asyncio.get_running_loop(), []

    def read(name: str, sock: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, origin = sock.recvfrom(65_535)
                if origin[2] != socket.PACKET_OUTGOING:
                    ear.heard.append((name, frame))

    try:
        for host in hosts:
            sock = socket_in(host.netns, socket.AF_PACKET, socket.SOCK_DGRAM)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _HEARD)
            sock.bind(("eth0", _ETH_P_ALL))
            loop.add_reader(sock, read, host.name, sock)
        yield ear
    finally:
        for sock in sockets:
            loop.remove_reader(sock)
            sock.close()
