"""One raw connection that sends prepared bytes and counts an answer's, without reading them.

Cheap enough that a server which a few dozen of them ask is what is measured. The length of an
answer is taken from its head; of a long body the kernel discards all but the start (MSG_TRUNC).
"""

import re
import socket

from bench import connection

START = 64 << 10  # bytes of an answer that are really read
GULP = 16 << 20  # bytes discarded by one call, more than a socket buffer holds
TIMEOUT = 60.0  # seconds
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)

# What is discarded is written nowhere, but for the start of an answer's body.
_discarded = bytearray(GULP)


class Wire:
    """Ask with `ask`, or with `send` and then `read` as often as there is something to be read."""

    def __init__(self, url: str) -> None:
        self._socket = socket.create_connection(connection.address(url), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._expected = b""
        self._head = b""
        self._left = 0

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def ask(self, data: bytes, status: int) -> None:
        """Send a request and wait for all of its answer."""
        self.send(data, status)
        while not self.read():
            pass

    def send(self, data: bytes, status: int) -> None:
        """Send a request that must be answered with this status."""
        self._expected = b"HTTP/1.1 %d " % status
        self._socket.sendall(data)

    def read(self) -> bool:
        """Take in what has come; whether that is all of the answer. `RuntimeError`."""
        if self._left:
            size = min(self._left, GULP)
            taken = self._socket.recv_into(_discarded, size, socket.MSG_TRUNC)
            self._left -= taken
        else:
            data = self._socket.recv(START)
            taken = len(data)
            self._begin(data)
        if not taken:
            raise RuntimeError("the server closed a connection")
        return not self._left and not self._head

    def _begin(self, data: bytes) -> None:
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return
        found = LENGTH.search(self._head, 0, end + 2)
        if found is None or not self._head.startswith(self._expected):
            raise RuntimeError(f"{self._expected!r} expected: {self._head[:500]!r}")
        self._left = end + 4 + int(found[1]) - len(self._head)
        self._head = b""
