"""Just enough SCTP for a probe: an INIT by raw socket, answered by an INIT ACK (RFC 9260).

The kernels of test machines have no SCTP of their own; conntrack follows the handshake all the
same, and checks the CRC32c.
"""

import asyncio
import socket
import struct

INIT, INIT_ACK = 1, 2
CLIENT_PORT = 40_000
TAG = 0x6E706F6C


def packet(source: int, target: int, tag: int, chunk: int) -> bytes:
    """An INIT or INIT ACK with its checksum."""
    body = struct.pack("!BBHIIHHI", chunk, 0, 20, TAG, 65_536, 1, 1, 1)
    head = struct.pack("!HHI", source, target, tag)
    return head + struct.pack("<I", crc32c(head + bytes(4) + body)) + body


def parse(data: bytes) -> tuple[int, int, int]:
    """(source port, target port, chunk type) of a packet without its IP header."""
    source, target = struct.unpack_from("!HH", data)
    return source, target, data[12]


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def raw(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_SCTP)
    sock.setblocking(False)
    return sock


async def probe(address: str, port: int, source: str = "") -> str:
    """Send an INIT and wait for its acknowledgement."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with raw(family) as sock:
        if source:
            sock.bind((source, 0))
        sock.connect((address, 0))
        await loop.sock_sendall(sock, packet(CLIENT_PORT, port, 0, INIT))
        while True:
            data, sender = await loop.sock_recvfrom(sock, 512)
            # Before it was connected, the socket heard what others answered.
            if sender[0] == address and parse(_payload(data, family)) == (
                *(port, CLIENT_PORT, INIT_ACK),
            ):
                return "open"


async def answer(family: int, ports: frozenset[int]) -> None:
    """Acknowledge every INIT to one of the ports, for ever."""
    loop = asyncio.get_running_loop()
    with raw(family) as sock:
        while True:
            data, client = await loop.sock_recvfrom(sock, 512)
            source, target, chunk = parse(_payload(data, family))
            if chunk == INIT and target in ports:
                reply = packet(target, source, TAG, INIT_ACK)
                await loop.sock_sendto(sock, reply, (client[0], 0))


def _payload(data: bytes, family: int) -> bytes:
    return data if family == socket.AF_INET6 else data[(data[0] & 15) * 4 :]
