"""A process that hears of every commit from the kernel, and not from who commits.

The kernel announces each element that is added or deleted when its transaction is in force. What
comes is noted with its time and only taken apart when it is asked for, so that listening costs the
processes that are measured next to nothing.
"""

import select
import socket
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from typing import Any, NamedTuple

from bench.aside import Aside
from bench.netns import inside
from enforcer.nft import batch, events, wire

_RCVBUFFORCE = 33
_BUFFER = 64 << 20  # bytes
_ADDED, _DELETED = (batch.SUBSYSTEM << 8 | kind for kind in (batch.NEWELEMENT, batch.DELELEMENT))


class Seen(NamedTuple):
    """`when` is on `time.monotonic`, which all processes share. `keys` are as on the wire."""

    when: float
    added: bool
    name: str
    keys: frozenset[bytes]


class Witness:
    """Listens in a network namespace. Use it as a context manager."""

    def __init__(self, netns: str) -> None:
        self._aside = Aside(_work, netns)

    def __enter__(self) -> "Witness":
        self._aside.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._aside.__exit__(*error)

    def seen(self) -> Sequence[Seen]:
        """What was announced since the last time, in order. `RuntimeError` if some is lost."""
        found: list[Seen] = self._aside.ask(None)
        return found


def _work(pipe: Pipe, netns: str) -> None:
    sock = inside(netns, events.open_socket)
    sock.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER)
    noted: list[tuple[float, bytes]] = []
    with select.epoll() as poll:
        poll.register(sock, select.EPOLLIN)
        poll.register(pipe, select.EPOLLIN)
        pipe.send(None)
        while True:
            for number, _ in poll.poll():
                if number == sock.fileno():
                    noted.append((time.monotonic(), sock.recv(1 << 20)))
                else:
                    pipe.recv()
                    pipe.send([seen for when, data in noted for seen in _parsed(when, data)])
                    noted.clear()


def _parsed(when: float, data: bytes) -> list[Seen]:
    found = []
    for message in wire.messages(data):
        if message.kind in (_ADDED, _DELETED):
            parts = wire.attributes(message.body[4:])
            keys = frozenset(
                wire.attributes(wire.attributes(element)[1])[1]
                for _, element in wire.listed(parts[3])
            )
            found.append(Seen(when, message.kind == _ADDED, wire.string(parts[2]), keys))
    return found
