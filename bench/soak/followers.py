"""Watchers that read everything: each must get every event once, in the order of the revisions.

They live in one process of their own. Of a line nothing is read but the resourceVersion, so that a
few dozen of them keep up with the server; it is where the server writes it, first in the metadata.
"""

import re
import select
import socket
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any

from bench.aside import Aside
from bench.watchers import opened

BUFFER = 1 << 20  # bytes of one read
NAP = 0.005  # seconds between two looks at the sockets
LINE_END = b"}\n"
VERSION = re.compile(rb'"metadata":\{"resourceVersion":"(\d+)"')


class Followers:
    """So many watches of one path. Use it as a context manager.

    One that is ended by the server, or is given something out of order, fails all of them.
    """

    def __init__(self, url: str, path: str, *, count: int) -> None:
        self._aside = Aside(_work, url, path, count)

    def __enter__(self) -> "Followers":
        self._aside.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._aside.__exit__(*error)

    def counted(self) -> tuple[int, int]:
        """The events that the slowest and the fastest of them have got. `RuntimeError`."""
        least, most = self._aside.ask(None)
        return least, most


@dataclass(slots=True)
class Follower:
    """What one watcher has been sent: `count` events, the latest of `version`."""

    count: int = 0
    version: int = 0
    _rest: bytes = b""

    def take(self, data: bytes) -> None:
        """Take in some of the stream. `RuntimeError` where it is not what a watch must be."""
        data = self._rest + data
        end = data.rfind(LINE_END) + len(LINE_END)
        if end < len(LINE_END):
            self._rest = data
            return
        lines, self._rest = data[:end], data[end:]
        versions = [int(text) for text in VERSION.findall(lines)]
        if len(versions) != lines.count(LINE_END):
            raise RuntimeError(f"a watcher was sent something that is no event: {lines[-500:]!r}")
        for version in versions:
            if version <= self.version:
                raise RuntimeError(f"a watcher was sent {version} after {self.version}")
            self.version = version
        self.count += len(versions)


def _work(pipe: Pipe, url: str, path: str, count: int) -> None:
    sockets = opened(url, path, count)
    with select.epoll() as poll:
        for sock in sockets:
            poll.register(sock.fileno(), select.EPOLLIN)
        by_number = {sock.fileno(): (sock, Follower()) for sock in sockets}
        pipe.send(None)
        while True:
            time.sleep(NAP)
            _read(poll, by_number)
            if pipe.poll():
                pipe.recv()
                counts = [follower.count for _, follower in by_number.values()]
                pipe.send((min(counts), max(counts)))


def _read(poll: select.epoll, followers: dict[int, tuple[socket.socket, Follower]]) -> None:
    for number, _ in poll.poll(0, len(followers)):
        sock, follower = followers[number]
        data = sock.recv(BUFFER)
        if not data:
            raise RuntimeError("the server ended a watch")
        follower.take(data)
