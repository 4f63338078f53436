"""Who changed the table? Commits of other processes, as the kernel announces them.

Only where the table is not owned: an owned one cannot be changed by others, and then nobody should
have to read what all the others do.
"""

import socket
from collections.abc import Callable

from enforcer.nft import batch, wire

_GROUP = 7  # NFNLGRP_NFTABLES
_INET = bytes((batch.INET,))
_BUFFER = 1 << 20
_MOST = 64  # datagrams of one turn: a flood must not hold up the loop

# Its process and program, where the kernel knows them.
Changed = Callable[[int, str], None]


def open_socket() -> socket.socket:
    """To be called in the thread that is inside the namespace. `OSError`."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 12)
    made.bind((0, 1 << (_GROUP - 1)))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    made.setblocking(False)
    return made


class Watch:
    """Reads the announcements and tells of commits that touch a table and are not `port`'s."""

    def __init__(self, sock: socket.socket, table: Callable[[], str], port: int, tell: Changed):
        self._socket = sock
        self._table = table
        self._port = port
        self._tell = tell
        self._touched = False

    def read(self) -> None:
        """To be called when the socket is readable."""
        for _ in range(_MOST):
            try:
                data = self._socket.recv(1 << 18)
            except BlockingIOError:
                return
            except OSError:
                # Announcements were lost: anything may have happened.
                self._touched = False
                self._tell(0, "")
                return
            self._take(data)

    def _take(self, data: bytes) -> None:
        ours = self._table().encode() + b"\0"
        if not self._touched and ours not in data:
            return
        for item in wire.messages(data):
            if item.port == self._port:
                continue
            if item.kind == batch.SUBSYSTEM << 8 | batch.NEWGEN:
                if self._touched:
                    parts = wire.attributes(item.body[4:])
                    pid = int.from_bytes(parts.get(2, b""), "big")
                    self._tell(pid, wire.string(parts.get(3, b"")))
                self._touched = False
            elif item.body[:1] == _INET and wire.attributes(item.body[4:]).get(1) == ours:
                self._touched = True
