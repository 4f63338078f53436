"""The process in a pod that sends and counts: every datagram and every byte, there and back.

`python -m tests.lab.flood PLAN` inside a namespace; the plan is the JSON of `floods.Plan`. It says
`ready` and goes on until it is told to `rest`, when it sends no more; told to `tell` it
prints what it has counted. It knows nothing of policies.
"""

import contextlib
import ctypes
import errno
import json
import os
import selectors
import socket
import struct
import sys
import time
from collections import Counter
from typing import Any

NUMBER = struct.Struct("!Q")
BUFFER = 256 << 20  # bytes: a receiver that does not run for a minute loses nothing
RCVBUFFORCE = 33
CHUNK = b"networkpolicys" * 16  # of a stream, at each turn
RETRY = 0.2  # seconds until a connection that is not there is tried again
LIBC = ctypes.CDLL(None, use_errno=True)


class IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(IoVec)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class MMsgHdr(ctypes.Structure):
    _fields_ = (("header", MsgHdr), ("size", ctypes.c_uint))


class Burst:
    """Numbered datagrams that leave in one sendmmsg(2)."""

    def __init__(self, size: int, names: list[bytearray] | None = None) -> None:
        """`names` are struct sockaddr, one a datagram, for a socket that is not connected."""
        self.size = size
        self._content = bytearray(NUMBER.size * size)
        held = (ctypes.c_char * len(self._content)).from_buffer(self._content)
        start = ctypes.addressof(held)
        self._vectors = (IoVec * size)(
            *(IoVec(start + NUMBER.size * n, NUMBER.size) for n in range(size))
        )
        self._headers = (MMsgHdr * size)()
        self._names = [(ctypes.c_char * len(name)).from_buffer(name) for name in names or ()]
        for n, header in enumerate(self._headers):
            header.header.vectors = ctypes.pointer(self._vectors[n])
            header.header.vector_count = 1
            if names:
                header.header.name = ctypes.addressof(self._names[n])
                header.header.name_size = len(names[n])

    def send(self, sock: socket.socket, first: int) -> int:
        """How many left, numbered from `first`."""
        for n in range(self.size):
            NUMBER.pack_into(self._content, NUMBER.size * n, first + n)
        sent: int = LIBC.sendmmsg(sock.fileno(), self._headers, self.size, 0)
        if sent < 0:
            code = ctypes.get_errno()
            if code not in (errno.EAGAIN, errno.ENOBUFS):
                raise OSError(code, os.strerror(code))
        return max(0, sent)


class Datagrams:
    """One flow: what it sends is counted, and what comes back."""

    def __init__(self, address: str, port: int, size: int) -> None:
        self.sock = socket.socket(_family(address), socket.SOCK_DGRAM)
        _enlarge(self.sock)
        self.sock.setblocking(False)
        self.sock.connect((address, port))
        self.sent = self.back = self.astray = 0
        self._burst = Burst(size)

    def push(self) -> None:
        self.sent += self._burst.send(self.sock, self.sent)

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                (number,) = NUMBER.unpack(self.sock.recv(NUMBER.size))
                self.astray += number != self.back
                self.back = number + 1

    def told(self) -> dict[str, int]:
        return {"sent": self.sent, "back": self.back, "astray": self.astray}


class Receiver:
    """Sends back what comes to a port, and counts it by where it is from."""

    def __init__(self, port: int) -> None:
        self.sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        _enlarge(self.sock)
        self.sock.setblocking(False)
        self.sock.bind(("::", port))
        self.received: Counter[str] = Counter()

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, address = self.sock.recvfrom(NUMBER.size)
                self.received[address[0].removeprefix("::ffff:")] += 1
                self.sock.sendto(data, address)


class Stream:
    """One connection that is written to at each turn; made again and again while there is none."""

    def __init__(self, address: str, port: int, selector: selectors.BaseSelector) -> None:
        self.sent = self.back = self.connected = self.broken = 0
        self._to = address, port
        self._selector = selector
        self._sock: socket.socket | None = None
        self._is_connected = False
        self._again = 0.0

    def push(self) -> None:
        now = time.monotonic()
        if not self._is_connected:
            if now > self._again:
                self._connect()
                self._again = now + RETRY
        elif self._sock is not None:
            try:
                self.sent += self._sock.send(CHUNK)
            except BlockingIOError:
                pass
            except OSError:
                self._break()

    def read(self) -> None:
        assert self._sock is not None
        try:
            if not self._is_connected:
                if self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    self._close()
                    return
                self._is_connected = True
                self.connected += 1
                self._selector.modify(self._sock, selectors.EVENT_READ, self.read)
            elif data := self._sock.recv(1 << 16):
                self.back += len(data)
            else:
                self._break()
        except BlockingIOError:
            pass
        except OSError:
            self._break()

    def told(self) -> dict[str, int]:
        names = ("sent", "back", "connected", "broken")
        return {name: getattr(self, name) for name in names}

    def _connect(self) -> None:
        self._close()
        self._sock = socket.socket(_family(self._to[0]), socket.SOCK_STREAM)
        self._sock.setblocking(False)
        self._sock.connect_ex(self._to)
        self._selector.register(self._sock, selectors.EVENT_WRITE, self.read)

    def _break(self) -> None:
        self.broken += 1
        self._close()

    def _close(self) -> None:
        if self._sock is not None:
            self._selector.unregister(self._sock)
            self._sock.close()
        self._sock, self._is_connected = None, False


class Listener:
    """Sends back what comes on a connection."""

    def __init__(self, port: int, selector: selectors.BaseSelector) -> None:
        self.sock = socket.create_server(
            ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64
        )
        self.sock.setblocking(False)
        self._selector = selector

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            accepted, _ = self.sock.accept()
            self._selector.register(accepted, selectors.EVENT_READ, lambda: self._echo(accepted))

    def _echo(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if data := sock.recv(1 << 16):
                sock.sendall(data)
                return
        self._selector.unregister(sock)
        sock.close()


def everywhere(address: str, *, count: int, size: int) -> int:
    """Datagrams to ports at random, as fast as it goes; how many."""
    names = [bytearray(_sockaddr(address, 1)) for _ in range(size)]
    burst = Burst(size, names)
    sent = 0
    with socket.socket(_family(address), socket.SOCK_DGRAM) as sock:
        while sent < count:
            ports = os.urandom(2 * size)
            for n, name in enumerate(names):
                name[2:4] = ports[2 * n : 2 * n + 2]
                name[2] |= 4  # not 0, which the kernel refuses
            sent += burst.send(sock, sent)
    return sent


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _sockaddr(address: str, port: int) -> bytes:
    family = _family(address)
    packed = socket.inet_pton(family, address)
    head = struct.pack("=H", family) + port.to_bytes(2, "big")
    return head + (bytes(4) + packed + bytes(4) if ":" in address else packed + bytes(8))


def _enlarge(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, RCVBUFFORCE, BUFFER)


def main(plan: dict[str, Any]) -> None:
    if plan["everywhere"]:
        address, count = plan["everywhere"]
        _say("ready")
        _say({"sent": everywhere(address, count=count, size=plan["burst"])})
        return
    selector = selectors.DefaultSelector()
    receivers = [Receiver(port) for port in plan["listen"]]
    flows = {f"{a} {p}": Datagrams(a, p, plan["burst"]) for a, p in plan["datagrams"]}
    streams = {f"{a} {p}": Stream(a, p, selector) for a, p in plan["streams"]}
    listeners = [Listener(port, selector) for port in plan["listen"]]
    readers: list[Receiver | Datagrams | Listener] = [*receivers, *flows.values(), *listeners]
    senders: list[Datagrams | Stream] = [*flows.values(), *streams.values()]
    for reader in readers:
        selector.register(reader.sock, selectors.EVENT_READ, reader.read)
    os.set_blocking(0, False)
    selector.register(0, selectors.EVENT_READ, None)
    _say("ready")
    due, sending = time.monotonic(), True
    while True:
        now = time.monotonic()
        if sending and now >= due:
            due = max(due + plan["pause"], now)
            for sender in senders:
                sender.push()
        for key, _ in selector.select(max(0.0, due - now) if sending else None):
            if key.data is not None:
                key.data()
                continue
            said = os.read(0, 64).decode()
            if not said:
                return
            sending = sending and "rest" not in said
            if "tell" in said:
                received: Counter[str] = sum((r.received for r in receivers), Counter())
                _say(
                    {
                        "received": received,
                        "datagrams": {name: item.told() for name, item in flows.items()},
                        "streams": {name: item.told() for name, item in streams.items()},
                    }
                )


def _say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
