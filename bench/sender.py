"""A process that sends packets through a node and tells what one costs.

A packet goes from the sender's system call through both virtual links and the node's hooks to the
socket that drops it, all on one processor and within the call, so the time of the call is the cost
of all that. A call sends a batch, and the median of the batches is what a slice of time has found:
what interrupts one batch in ten does not show.
"""

import contextlib
import ctypes
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from statistics import median
from typing import Any

from bench.aside import Aside
from bench.netns import inside
from tests.lab.flood import IoVec, MMsgHdr, MsgHdr

PAYLOAD = 32  # bytes
BATCH = 64  # packets of a call
WAIT = 1.0  # seconds for a packet that should come
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER
_DROP = struct.pack("=HBBI", 0x06, 0, 0, 0)  # BPF_RET: keep no byte
_GONE = struct.pack("=ii", 1, 0)  # SO_LINGER: close with a reset, which leaves no state behind


@dataclass(frozen=True, slots=True)
class Way:
    """From a namespace to another one's address and port, through what is between them."""

    client: str
    server: str
    address: str
    port: int


class Sender:
    """Sends on the ways that it is given, by their number. Use it as a context manager."""

    def __init__(self, ways: Sequence[Way]) -> None:
        self._aside = Aside(_work, tuple(ways))

    def __enter__(self) -> "Sender":
        self._aside.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._aside.__exit__(*error)

    def packet(self, way: int, seconds: float) -> float:
        """Nanoseconds a packet of an established flow. `RuntimeError` where some do not arrive."""
        found: float = self._aside.ask((_Path.packet, way, seconds))
        return found

    def connect(self, way: int, count: int) -> float:
        """Microseconds until a TCP connection stands, each of a new flow."""
        found: float = self._aside.ask((_Path.connect, way, count))
        return found


def _work(pipe: Pipe, ways: tuple[Way, ...]) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with contextlib.ExitStack() as stack:
        paths = [stack.enter_context(contextlib.closing(_Path(way))) for way in ways]
        pipe.send(None)
        while True:
            work, way, amount = pipe.recv()
            pipe.send(work(paths[way], amount))


class _Path:
    """The sockets of a way."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._listener = inside(way.server, lambda: socket.create_server(("", way.port)))
        self._receiver = inside(way.server, lambda: _bound(way.port))
        self._arrived = inside(way.server, Path("/proc/thread-self/net/dev").open)
        self._client = inside(way.client, lambda: socket.socket(type=socket.SOCK_DGRAM))
        self._client.connect((way.address, way.port))
        self._establish()
        self._send = _sending(self._client)

    def close(self) -> None:
        for opened in (self._listener, self._receiver, self._arrived, self._client):
            opened.close()

    def packet(self, seconds: float) -> float:
        spent, before = [], self._count()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begun = time.perf_counter_ns()
            self._send()
            spent.append((time.perf_counter_ns() - begun) / BATCH)
        if self._count() - before < len(spent) * BATCH:
            raise RuntimeError(f"not all packets to {self._way.address} have arrived")
        return median(spent)

    def connect(self, count: int) -> float:
        return inside(self._way.client, lambda: self._connects(count))

    def _connects(self, count: int) -> float:
        place, spent = (self._way.address, self._way.port), []
        for _ in range(count):
            with socket.socket() as client:
                client.settimeout(None)
                begun = time.perf_counter_ns()
                client.connect(place)
                spent.append((time.perf_counter_ns() - begun) / 1_000)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _GONE)
                self._listener.accept()[0].close()
        return median(spent)

    def _establish(self) -> None:
        """A packet each way, so that conntrack knows the flow; then whatever comes is dropped."""
        self._receiver.settimeout(WAIT)
        self._client.settimeout(WAIT)
        self._client.send(b"there")
        try:
            _, address = self._receiver.recvfrom(64)
            self._receiver.sendto(b"back", address)
            self._client.recv(64)
        except TimeoutError:
            raise RuntimeError(f"no packet passes to {self._way.address}") from None
        self._client.settimeout(None)
        program = ctypes.create_string_buffer(_DROP)
        self._receiver.setsockopt(
            socket.SOL_SOCKET,
            _ATTACH_FILTER,
            struct.pack("@HP", 1, ctypes.addressof(program)),
        )

    def _count(self) -> int:
        """Packets that the server's link has received."""
        self._arrived.seek(0)
        line = next(line for line in self._arrived if line.lstrip().startswith("eth0:"))
        return int(line.partition(":")[2].split()[1])


def _bound(port: int) -> socket.socket:
    made = socket.socket(type=socket.SOCK_DGRAM)
    made.bind(("", port))
    return made


def _sending(sock: socket.socket) -> Callable[[], None]:
    """A function that sends a batch on a connected socket."""
    payload = ctypes.create_string_buffer(PAYLOAD)
    piece = IoVec(ctypes.addressof(payload), PAYLOAD)
    header = MsgHdr(vectors=ctypes.pointer(piece), vector_count=1)
    batch = (MMsgHdr * BATCH)(*(MMsgHdr(header) for _ in range(BATCH)))
    sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg
    number = sock.fileno()

    def send() -> None:
        if sendmmsg(number, batch, BATCH, 0) != BATCH:
            raise OSError(ctypes.get_errno(), f"{PAYLOAD} bytes could not be sent: {payload.raw!r}")

    return send
