"""One netlink socket, asked and answered in the calling thread.

It belongs to the network namespace that the thread is in when the socket is made, and stays there.
For questions that are rare and may block: of `canary`, `bypass` and `tags`.
"""

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from enforcer.nft import wire

ROUTE, NETFILTER = 0, 12  # protocols: links, addresses, routes, qdiscs; nf_tables

_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_LONGEST = 1 << 16  # bytes of one datagram; the kernel makes none that is longer than 32 KiB
_PATIENCE = 5.0  # seconds; the kernel answers within the call, so none of them is ever used
_BEGIN, _END, _NFTABLES = 16, 17, 10  # NFNL_MSG_BATCH_BEGIN and _END, NFNL_SUBSYS_NFTABLES


class Message(NamedTuple):
    """One of a transaction."""

    kind: int
    flags: int
    body: bytes


class Netlink:
    """`protocol` is `ROUTE` or `NETFILTER`. `OSError` with the kernel's words."""

    def __init__(self, protocol: int) -> None:
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self._socket.settimeout(_PATIENCE)
        for option in (_CAP_ACK, _EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.bind((0, 0))

    def run(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Have something done."""
        for _ in self._answers(kind, wire.ACK | flags, body):
            pass

    def get(self, kind: int, body: bytes) -> bytes:
        """The one object that is asked for."""
        return next(iter([m.body for m in self._answers(kind, wire.ACK, body)]), b"")

    def dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        """All objects. While somebody changes them they may be of different moments."""
        for message in self._answers(kind, wire.DUMP, body):
            yield message.body

    def commit(self, messages: Sequence[Message]) -> None:
        """A transaction of nf_tables: all of it takes effect, or nothing and `OSError`."""
        first, last = self._sequence + 1, self._sequence + len(messages)
        self._sequence = last
        around = struct.pack("=BB", 0, 0) + _NFTABLES.to_bytes(2, "big")
        content = [wire.message(_BEGIN, wire.REQUEST, last, around)]
        for number, (kind, flags, body) in enumerate(messages, first):
            flags |= wire.REQUEST | (wire.ACK if number == last else 0)
            content.append(wire.message(kind, flags, number, body))
        content.append(wire.message(_END, wire.REQUEST, last, around))
        self._socket.send(b"".join(content))
        refused: OSError | None = None
        while True:
            for answer in wire.messages(self._socket.recv(_LONGEST)):
                if answer.kind != wire.ERROR or not first <= answer.sequence <= last:
                    continue
                try:
                    self._check(answer)
                except OSError as error:
                    refused = refused or error
                if answer.sequence == last:
                    if refused is not None:
                        raise refused
                    return

    def close(self) -> None:
        self._socket.close()

    def _answers(self, kind: int, flags: int, body: bytes) -> Iterator[wire.Message]:
        self._sequence += 1
        self._socket.send(wire.message(kind, wire.REQUEST | flags, self._sequence, body))
        while True:
            for message in wire.messages(self._socket.recv(_LONGEST)):
                if message.sequence != self._sequence:
                    continue
                if message.kind not in (wire.ERROR, wire.DONE):
                    yield message
                    continue
                self._check(message)
                return

    @staticmethod
    def _check(message: wire.Message) -> None:
        """The end of a dump carries a code too; an error has the kernel's words behind it."""
        (code,) = struct.unpack_from("=i", message.body) if len(message.body) >= 4 else (0,)
        if not code:
            return
        words = os.strerror(-code)
        if message.kind == wire.ERROR and (said := wire.attributes(message.body[20:]).get(1)):
            words = f"{words}: {wire.string(said)}"
        raise OSError(-code, words)
