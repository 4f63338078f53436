"""The process in a pod: it listens, and it tries to reach others when it is told to.

`python -m tests.lab.agent PORT…` inside a namespace; requests and answers are JSON lines on
standard input and output. It knows nothing of policies.
"""

import asyncio
import json
import os
import socket
import struct
import sys
from typing import Any

from tests.lab import sctp

ECHO = b"networkpolicys"
BULK = 100_000  # bytes


async def tcp(address: str, port: int, source: str = "") -> str:
    """Connect, send, and get it back. `source` is the own address, else the kernel's choice."""
    local = (source, 0) if source else None
    reader, writer = await asyncio.open_connection(address, port, local_addr=local)
    try:
        writer.write(ECHO)
        return "open" if await reader.readexactly(len(ECHO)) == ECHO else "broken"
    finally:
        writer.transport.abort()


async def bulk(address: str, port: int, source: str = "") -> str:
    """Send more than a few packets and get all of it back."""
    local = (source, 0) if source else None
    reader, writer = await asyncio.open_connection(address, port, local_addr=local)
    data = ECHO * (BULK // len(ECHO))
    try:
        writer.write(data)
        return "open" if await reader.readexactly(len(data)) == data else "broken"
    finally:
        writer.transport.abort()


async def udp(address: str, port: int, source: str = "") -> str:
    """Send a datagram and get it back."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        if source:
            sock.bind((source, 0))
        await loop.sock_connect(sock, (address, port))
        await loop.sock_sendall(sock, ECHO)
        return "open" if await loop.sock_recv(sock, 64) == ECHO else "broken"


async def icmp(address: str, port: int, source: str = "") -> str:
    """Send an echo request and get the reply."""
    loop = asyncio.get_running_loop()
    six = ":" in address
    family, protocol = (
        (socket.AF_INET6, socket.getprotobyname("ipv6-icmp"))
        if six
        else (socket.AF_INET, socket.IPPROTO_ICMP)
    )
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        sock.setblocking(False)
        mark = os.urandom(8)
        header = struct.pack("!BBHHH", 128 if six else 8, 0, 0, 1, 1)
        body = header + mark
        if not six:  # the kernel fills in the checksum for IPv6 only
            body = struct.pack("!BBHHH", 8, 0, _checksum(body), 1, 1) + mark
        if source:
            sock.bind((source, 0))
        sock.connect((address, 0))  # asyncio's own would look for a service of this type
        await loop.sock_sendall(sock, body)
        while True:
            answer = await loop.sock_recv(sock, 256)
            kind = answer[0] if six else answer[20]
            if answer.endswith(mark) and kind == (129 if six else 0):
                return "open"


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    folded: int = total + (total >> 16)
    return ~folded & 0xFFFF


PROBES = {"tcp": tcp, "bulk": bulk, "udp": udp, "icmp": icmp, "sctp": sctp.probe}


class Agent:
    """Answers requests; `streams` are connections that stay open between them."""

    def __init__(self) -> None:
        self._streams: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        self._accepted: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def answer(self, request: dict[str, Any]) -> str:
        """The outcome: open, refused, reset, silent, or what went wrong."""
        try:
            async with asyncio.timeout(request["timeout"]):
                return await self._do(request)
        except TimeoutError:
            return "silent"
        except ConnectionRefusedError:
            return "refused"
        except (ConnectionError, asyncio.IncompleteReadError):
            return "reset"
        except OSError as error:
            return f"error: {error.strerror}"

    async def _do(self, request: dict[str, Any]) -> str:
        kind = request["do"]
        if probe := PROBES.get(kind):
            return await probe(request["address"], request["port"], request.get("source", ""))
        if kind == "hold":
            self._streams[request["id"]] = await asyncio.open_connection(
                request["address"], request["port"]
            )
            return "open"
        if kind == "say":
            reader, writer = self._streams[request["stream"]]
            writer.write(ECHO)
            return "open" if await reader.readexactly(len(ECHO)) == ECHO else "broken"
        if kind == "push":  # the server speaks first, on every connection it has accepted
            for _, writer in self._accepted:
                writer.write(ECHO)
            return "open"
        if kind == "served":  # how many connections it has accepted and not lost
            return str(len(self._accepted))
        if kind == "hear":
            reader, _ = self._streams[request["stream"]]
            return "open" if await reader.readexactly(len(ECHO)) == ECHO else "broken"
        raise ValueError(kind)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Echo until the other side goes."""
        self._accepted.append((reader, writer))
        try:
            while data := await reader.read(BULK):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self._accepted.remove((reader, writer))
            writer.transport.abort()


class UdpEcho(asyncio.DatagramProtocol):
    """Sends back what it gets."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._transport.sendto(data, address)

    def error_received(self, error: Exception) -> None:
        return None


def tell(number: int, outcome: str) -> None:
    sys.stdout.write(json.dumps({"id": number, "outcome": outcome}) + "\n")
    sys.stdout.flush()


async def main(ports: list[int]) -> None:
    agent, loop = Agent(), asyncio.get_running_loop()
    for port in ports:
        await asyncio.start_server(agent.serve, ["0.0.0.0", "::"], port)
        await loop.create_datagram_endpoint(UdpEcho, local_addr=("::", port))  # both families
    answering = [
        asyncio.create_task(sctp.answer(family, frozenset(ports)))
        for family in (socket.AF_INET, socket.AF_INET6)
    ]
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    tasks: set[asyncio.Task[None]] = set()

    async def handle(request: dict[str, Any]) -> None:
        outcome = await agent.answer(request)
        tell(request["id"], outcome)

    tell(0, "ready")
    while line := await stdin.readline():
        task = asyncio.create_task(handle(json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    for task in answering:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main([int(port) for port in sys.argv[1:]]))
