"""Requests without pause over a few connections, cheap enough that the server is what is measured.

Each connection asks again as soon as it has its answer, and never before (no pipelining). The
length of an answer is learned once and then only counted. Of a long answer all but the start is
discarded by the kernel (MSG_TRUNC), so that reading a list costs the load next to nothing.
"""

import select
import socket
import time

from bench import connection

START = 64 << 10  # bytes of an answer that are really read
GULP = 16 << 20  # bytes discarded by one call, more than a socket buffer holds
ANSWERED = b"HTTP/1.1 200 "
TIMEOUT = 60.0  # seconds without an answer after which a run is given up


class Load:
    """Open connections to one server that all ask for one path. `close` ends it."""

    def __init__(self, url: str, path: str, *, connections: int, expected: bytes) -> None:
        """`RuntimeError` where the server's answer is not the expected one."""
        self._request = connection.request("GET", url, path)
        self._sockets = [
            socket.create_connection(connection.address(url), TIMEOUT) for _ in range(connections)
        ]
        self._buffer = bytearray(GULP)
        self._length = max(self._learn(sock, expected) for sock in self._sockets)
        for sock in self._sockets:
            sock.setblocking(False)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()

    def rate(self, seconds: float) -> float:
        """Answers per second over about so many seconds."""
        with select.epoll() as poll:
            open_sockets = {sock.fileno(): sock for sock in self._sockets}
            missing = {}
            begun = time.monotonic()
            for number, sock in open_sockets.items():
                poll.register(number, select.EPOLLIN)
                sock.send(self._request)
                missing[number] = self._length
            deadline = begun + seconds
            answers = 0
            while missing:
                ready = poll.poll(TIMEOUT)
                if not ready:
                    raise RuntimeError("the server does not answer")
                for number, _ in ready:
                    sock = open_sockets[number]
                    left = missing[number] - self._read(sock, missing[number])
                    missing[number] = left
                    if left:
                        continue
                    answers += 1
                    if time.monotonic() < deadline:
                        sock.send(self._request)
                        missing[number] = self._length
                    else:
                        del missing[number]
            return answers / (time.monotonic() - begun)

    def _read(self, sock: socket.socket, left: int) -> int:
        """Read what has come of an answer of which so many bytes are missing."""
        if left < self._length:
            size = sock.recv_into(self._buffer, min(left, GULP), socket.MSG_TRUNC)
        else:
            size = sock.recv_into(self._buffer, min(left, START))
            if not self._buffer.startswith(ANSWERED):
                raise RuntimeError(f"the server answers {bytes(self._buffer[:200])!r}")
        if not size:
            raise RuntimeError("the server closed a connection")
        return size

    def _learn(self, sock: socket.socket, expected: bytes) -> int:
        """The length of an answer with its head, which is the same every time."""
        sock.sendall(self._request)
        answer = bytearray()
        while b"\r\n\r\n" not in answer:
            answer += sock.recv(START)
        head = answer.index(b"\r\n\r\n") + 4
        while len(answer) < head + len(expected) and (data := sock.recv(START)):
            answer += data
        if answer[head:] != expected:
            raise RuntimeError("the server answers with other bytes than expected")
        return len(answer)
