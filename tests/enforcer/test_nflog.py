"""What is read from the kernel's log messages, and from whatever packets are in them."""

import errno
import socket
import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.nft import nflog, packet, wire
from enforcer.nft.nflog import Reader, Seen
from enforcer.nft.packet import Headers

PORTS = struct.pack("!HH", 40_000, 443)
addresses4 = st.ip_addresses(v=4)
addresses6 = st.ip_addresses(v=6)


def ipv4(
    protocol: int,
    payload: bytes,
    *,
    source: str = "192.0.2.1",
    destination: str = "10.0.0.1",
    options: bytes = b"",
    offset: int = 0,
) -> bytes:
    length = 20 + len(options)
    head = struct.pack(
        "!BBHHHBBH",
        0x40 | length // 4,
        0,
        length + len(payload),
        1,
        offset,
        64,
        protocol,
        0,
    )
    return head + IPv4Address(source).packed + IPv4Address(destination).packed + options + payload


def ipv6(
    protocol: int, payload: bytes, *, source: str = "2001:db8::1", destination: str = "fd00::1"
) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
    return head + IPv6Address(source).packed + IPv6Address(destination).packed + payload


def extension(following: int, words: int = 0) -> bytes:
    return bytes((following, words)) + bytes(6 + 8 * words)


def fragment(following: int, offset: int) -> bytes:
    return struct.pack("!BBHI", following, 0, offset << 3 | 1, 7)


def logged(payload: bytes, *, prefix: str = "netpol denied", number: int = 0) -> bytes:
    """A message as the kernel writes it."""
    body = struct.pack("!BBH", socket.AF_INET, 0, 77) + b"".join(
        (
            wire.attribute(1, bytes(4)),
            wire.text(nflog.PREFIX, prefix),
            wire.attribute(nflog.TIMESTAMP, struct.pack("!QQ", 1_800_000_000, 250_000)),
            wire.number(nflog.SEQUENCE, number),
            wire.attribute(nflog.PAYLOAD, payload),
        )
    )
    message = wire.message(nflog.PACKET, 0, 0, body)
    return message + bytes(-len(message) % 4)


@pytest.mark.parametrize(("protocol", "name"), [(6, "TCP"), (17, "UDP"), (132, "SCTP")])
def test_a_packet_tells_both_ends_and_the_port(protocol: int, name: str) -> None:
    assert packet.read(ipv4(protocol, PORTS)) == Headers("192.0.2.1", "10.0.0.1", name, 443)
    assert packet.read(ipv6(protocol, PORTS)) == Headers("2001:db8::1", "fd00::1", name, 443)


@pytest.mark.parametrize(
    ("protocol", "name"), [(1, "ICMP"), (58, "ICMP"), (47, "GRE"), (253, "253")]
)
def test_a_protocol_without_ports_has_none(protocol: int, name: str) -> None:
    assert packet.read(ipv4(protocol, PORTS)) == Headers("192.0.2.1", "10.0.0.1", name, None)
    assert packet.read(ipv6(protocol, b"")) == Headers("2001:db8::1", "fd00::1", name, None)


def test_options_and_extension_headers_are_skipped() -> None:
    assert packet.read(ipv4(6, PORTS, options=bytes(8))) == packet.read(ipv4(6, PORTS))
    authentication = bytes((6, 4)) + bytes(22)
    headers = extension(43) + extension(60, 1) + extension(51) + authentication
    assert packet.read(ipv6(0, headers + PORTS)) == packet.read(ipv6(6, PORTS))


def test_only_the_first_fragment_has_a_port() -> None:
    first, later = ipv4(17, PORTS, offset=0x2000), ipv4(17, PORTS, offset=0x2001)
    assert (packet.read(first) or first)[3] == 443
    assert (packet.read(later) or later)[2:] == ("UDP", None)
    first, later = (ipv6(44, fragment(17, offset) + PORTS) for offset in (0, 1))
    assert (packet.read(first) or first)[3] == 443
    assert (packet.read(later) or later)[2:] == ("UDP", None)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x45",
        bytes(64),
        ipv4(6, PORTS)[:19],
        ipv4(6, PORTS)[:23],
        b"\x44" + ipv4(6, PORTS)[1:],
        b"\x4f" + ipv4(6, PORTS)[1:],
        ipv6(6, PORTS)[:39],
        ipv6(6, PORTS)[:43],
        ipv6(0, extension(6, 30) + PORTS)[:96],
        ipv6(0, extension(0) * 7),
        ipv6(44, fragment(60, 1) + PORTS),
        b"\x55" + ipv4(6, PORTS)[1:],
    ],
)
def test_what_is_cut_off_or_no_ip_is_nothing(garbage: bytes) -> None:
    assert packet.read(garbage) is None


def test_what_is_behind_the_end_of_the_packet_is_no_port() -> None:
    padded = ipv4(6, b"")[:20] + PORTS
    assert packet.read(padded) is None


@given(
    st.one_of(st.tuples(addresses4, addresses4), st.tuples(addresses6, addresses6)),
    st.sampled_from((6, 17, 132)),
    st.integers(0, 65_535),
    st.lists(st.sampled_from((0, 43, 60)), max_size=3),
    st.integers(0, 200),
)
def test_every_packet_is_read_or_cut_off_before_its_ports(
    ends: tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address],
    protocol: int,
    port: int,
    extensions: list[int],
    cut: int,
) -> None:
    source, destination = map(str, ends)
    body = struct.pack("!HHI", 1, port, 0)
    if isinstance(ends[0], IPv4Address):
        data, start = ipv4(protocol, body, source=source, destination=destination), 20
    else:
        chain = [*extensions, protocol]
        headers = b"".join(extension(following) for following in chain[1:])
        data = ipv6(chain[0], headers + body, source=source, destination=destination)
        start = 40 + len(headers)
    want = Headers(source, destination, packet.NAMES[protocol], port)
    assert packet.read(data[:cut]) == (want if cut >= start + 4 else None)


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(data: bytes) -> None:
    found = packet.read(data)
    assert found is None or found.port is None or 0 <= found.port <= 65_535
    for first in (b"\x45", b"\x60"):
        packet.read(first + data)
    list(nflog.packets(data))
    header = wire.message(nflog.PACKET, 0, 0, data)
    assert len(list(nflog.packets(header))) == 1


@given(st.data())
def test_a_message_that_is_damaged_does_no_harm(data: st.DataObject) -> None:
    whole = bytearray(logged(ipv4(6, PORTS)) + logged(ipv6(6, PORTS)))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    del whole[data.draw(st.integers(0, len(whole))) :]
    assert len(list(nflog.packets(bytes(whole)))) <= len(whole) // 16


def test_a_message_holds_several_packets() -> None:
    done = wire.message(wire.DONE, 0, 0, bytes(4))
    found = list(
        nflog.packets(
            logged(ipv4(6, PORTS), number=5)
            + logged(b"?", number=6)
            + logged(ipv6(17, PORTS), prefix="netpol audit", number=7)
            + done
        )
    )
    assert found == [
        (5, Seen("netpol denied", "192.0.2.1", "10.0.0.1", "TCP", 443, 1_800_000_000.25)),
        (6, None),
        (7, Seen("netpol audit", "2001:db8::1", "fd00::1", "UDP", 443, 1_800_000_000.25)),
    ]


def test_a_time_that_no_date_can_be_made_of_is_none() -> None:
    damaged = logged(ipv4(6, PORTS)).replace(
        struct.pack("!Q", 1_800_000_000), struct.pack("!Q", 1 << 63)
    )
    ((_, seen),) = nflog.packets(damaged)
    assert seen is not None
    assert seen.time is None


class Told(socket.socket):
    """A socket that gives what it was told to, an error or a datagram of the kernel's."""

    def __init__(self, *answers: bytes | OSError, sender: int = 0) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._answers = list(answers)
        self._sender = sender

    def recvfrom(self, *_: object) -> tuple[bytes, tuple[int, int]]:
        if not self._answers:
            raise BlockingIOError(errno.EAGAIN, "nothing")
        answer = self._answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer, (self._sender, 0)


def test_a_full_buffer_and_what_went_missing_are_counted() -> None:
    seen: list[Seen] = []
    with Told(
        logged(ipv4(6, PORTS), number=0xFFFFFFFE),
        OSError(errno.ENOBUFS, "no buffer space"),
        logged(ipv4(6, PORTS), number=2),
        logged(b"", number=3),
    ) as source:
        reader = Reader(source, seen.append)
        reader.read()
    assert len(seen) == 2
    assert (reader.overruns, reader.lost, reader.unreadable) == (1, 3, 1)


def test_messages_of_other_processes_are_not_believed() -> None:
    seen: list[Seen] = []
    with Told(logged(ipv4(6, PORTS)), sender=1) as source:
        Reader(source, seen.append).read()
    assert not seen


def test_one_call_takes_a_bounded_number_of_messages() -> None:
    seen: list[Seen] = []
    with Told(*[logged(ipv4(6, PORTS))] * (nflog.ONCE * 2)) as source:
        reader = Reader(source, seen.append)
        reader.read()
        assert len(seen) == nflog.ONCE
        reader.read()
    assert len(seen) == nflog.ONCE * 2
