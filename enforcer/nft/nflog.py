"""Hear of the packets that the table's `log group` rules pick: a raw nfnetlink_log socket.

`open_socket` is called in a thread that is inside the filtered namespace; from then on the socket
is read from anywhere, when it is readable, with `Reader.read`. Nothing here waits, and nothing that
goes wrong with a log stops the enforcer: losses are counted. Formats: Linux,
`linux/netfilter/nfnetlink_log.h`.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from enforcer.nft import packet, wire

GROUP = 77
SNAPLEN = 96  # bytes of a packet: IPv6, four short extension headers and the ports
BUFFER = 1 << 20  # bytes: some 1,000 packets, twenty times what the rules let through a second
FLUSH = 10  # hundredths of a second that the kernel collects packets for one message
ONCE = 64  # messages in one call of `read`, then others get their turn
LATEST = 1 << 37  # seconds since 1970 that a date can be made of
ANSWER = 2.0  # seconds that the kernel gets to answer, which it does while being asked

NETLINK_NETFILTER = 12
SO_RCVBUFFORCE = 33
PACKET, CONFIG = 4 << 8, 4 << 8 | 1  # NFNL_SUBSYS_ULOG << 8 | message
CFG_CMD, CFG_MODE, CFG_TIMEOUT, CFG_FLAGS = 1, 2, 4, 6
BIND, COPY_PACKET, COUNT_MESSAGES = 1, 2, 1
TIMESTAMP, PAYLOAD, PREFIX, SEQUENCE = 3, 9, 10, 12
FAMILY = struct.Struct("!BBH")  # nfgenmsg


class NoLog(Exception):
    """The kernel gives us no packets; enforcement does not need them."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One packet that a rule logged.

    `prefix` is the rule's own; addresses, `protocol` and `port` are those of `packet.Headers`;
    `time` is when it came, in seconds since 1970, or None where the kernel does not say.
    """

    prefix: str
    source: str
    destination: str
    protocol: str
    port: int | None
    time: float | None = None


def open_socket(group: int = GROUP, *, snaplen: int = SNAPLEN) -> socket.socket:
    """A socket that gets the packets of a group in the calling thread's network namespace.

    `NoLog` where somebody else has the group, or we lack CAP_NET_ADMIN.
    """
    try:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    except OSError as error:
        raise NoLog(f"no netlink socket: {error}") from error
    try:
        made.settimeout(ANSWER)
        made.bind((0, 0))
        _enlarge(made)
        _ask(
            made,
            group,
            wire.number(CFG_CMD, BIND, 1)
            + wire.attribute(CFG_MODE, struct.pack("!IBx", snaplen, COPY_PACKET))
            + wire.number(CFG_TIMEOUT, FLUSH)
            + wire.number(CFG_FLAGS, COUNT_MESSAGES, 2),
        )
        made.setblocking(False)
    except OSError as error:
        made.close()
        # EPERM is also what a group of another socket is answered with.
        holder = _holder(group) if error.errno in (errno.EPERM, errno.EBUSY) else None
        if holder is not None:
            raise NoLog(
                f"NFLOG group {group} is taken by netlink port {holder}, usually the id of a"
                " process; end it, or choose another group"
            ) from error
        raise NoLog(f"NFLOG group {group}: {error}") from error
    except BaseException:
        made.close()
        raise
    return made


class Reader:
    """Hands the packets of a socket to `tell`, and counts what it cannot hand on.

    `overruns` counts how often the kernel found the socket's buffer full, `lost` the packets that
    went missing then, `unreadable` those that are no IP or are cut off too early.
    """

    def __init__(self, source: socket.socket, tell: Callable[[Seen], object]) -> None:
        self.overruns = 0
        self.lost = 0
        self.unreadable = 0
        self._source = source
        self._tell = tell
        self._next: int | None = None

    def read(self) -> None:
        """Take what is there; for `loop.add_reader`, which calls again where there is more."""
        for _ in range(ONCE):
            try:
                data, (sender, _groups) = self._source.recvfrom(1 << 16)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # ENOBUFS; the socket goes on after an error, which is told once
                self.overruns += 1
                continue
            if sender:  # not the kernel
                continue
            for number, seen in packets(data):
                self._count(number)
                if seen is None:
                    self.unreadable += 1
                else:
                    self._tell(seen)

    def _count(self, number: int | None) -> None:
        if number is None:
            return
        if self._next is not None:
            self.lost += (number - self._next) & 0xFFFFFFFF
        self._next = (number + 1) & 0xFFFFFFFF


def packets(data: bytes) -> Iterator[tuple[int | None, Seen | None]]:
    """The packets in a datagram, each with its number; None for one that cannot be read."""
    for message in wire.messages(data):
        if message.kind != PACKET:
            continue
        found = wire.attributes(message.body[FAMILY.size :])
        number = found.get(SEQUENCE, b"")
        headers = packet.read(found.get(PAYLOAD, b""))
        seen = None
        if headers is not None:
            prefix = wire.string(found.get(PREFIX, b""))
            seen = Seen(prefix, *headers, _time(found.get(TIMESTAMP, b"")))
        yield int.from_bytes(number) if len(number) == 4 else None, seen


def _time(value: bytes) -> float | None:
    if len(value) != 16:
        return None
    seconds, microseconds = struct.unpack("!QQ", value)
    return float(seconds + microseconds / 1e6) if seconds < LATEST else None


def _ask(made: socket.socket, group: int, attributes: bytes) -> None:
    """Configure a group; `OSError` with the kernel's answer."""
    body = FAMILY.pack(socket.AF_UNSPEC, 0, group) + attributes
    made.send(wire.message(CONFIG, wire.REQUEST | wire.ACK, 1, body))
    while True:  # packets may come before the answer
        for answer in wire.messages(made.recv(1 << 16)):
            if answer.kind == wire.ERROR:
                code = -int.from_bytes(answer.body[:4], sys.byteorder, signed=True)
                if code:
                    raise OSError(code, os.strerror(code))
                return


def _enlarge(made: socket.socket) -> None:
    try:
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    except OSError:  # without CAP_NET_ADMIN in the first user namespace: what net.core.rmem_max is
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)


def _holder(group: int) -> int | None:
    """The netlink port that a group of this thread's namespace is bound to."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/thread-self/net/netfilter/nfnetlink_log").read_text().splitlines():
            number, port, *_ = line.split()
            if int(number) == group:
                return int(port)
    return None
