"""Many watchers in one process of its own, which only counts the events that they are sent.

A line of a watch ends with a brace and a newline, and no chunk header does, so lines are counted
in the raw stream, whatever chunks they come in. Between two looks at its sockets the process naps:
one that waited on them would be woken for every event, and the server pays for waking it. That
would cost the slower of two servers more, and it is no cost of either's code. What it measures is
up to a nap longer for it, for both.
"""

import select
import socket
import time
from array import array
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from typing import Any

from bench import connection
from bench.aside import Aside

BUFFER = 256 << 10  # bytes of one read
LINE_END = b"}\n"
NAP = 0.001  # seconds; a round takes some hundreds of these
TIMEOUT = 60.0  # seconds without an event after which a run is given up


class Watchers:
    """A process that holds so many watches of one path open. Use it as a context manager."""

    def __init__(self, url: str, path: str, *, count: int) -> None:
        self._aside = Aside(_work, url, path, count)

    def __enter__(self) -> "Watchers":
        self._aside.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._aside.__exit__(*error)

    def expect(self, events: int) -> None:
        """Start counting: every watcher will be sent so many events. Before they are caused."""
        self._aside.ask(events)

    def arrivals(self) -> Sequence["array[float]"]:
        """Wait for the last event of the last watcher; for each event when watchers got it.

        The times are on `time.monotonic`, which all processes share, in their order.
        """
        found: Sequence[array[float]] = self._aside.hear()
        return found


def opened(url: str, path: str, count: int) -> list[socket.socket]:
    """So many watches of a path, at the start of their bodies. They do not block."""
    request = connection.request("GET", url, path)
    sockets = [socket.create_connection(connection.address(url), TIMEOUT) for _ in range(count)]
    for sock in sockets:
        sock.sendall(request)
    for sock in sockets:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (data := sock.recv(1)):
                raise RuntimeError("the server closed a watch")
            head += data
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"the server answers {head!r}")
        sock.setblocking(False)
    return sockets


def _work(pipe: Pipe, url: str, path: str, count: int) -> None:
    """Open the watches, then count for every number of events that comes through the pipe."""
    sockets = opened(url, path, count)
    with select.epoll() as poll:
        for sock in sockets:
            poll.register(sock.fileno(), select.EPOLLIN)
        by_number = {sock.fileno(): sock for sock in sockets}
        pipe.send(None)
        while True:
            events = pipe.recv()
            pipe.send(None)
            pipe.send(_count(poll, by_number, events))


def _count(
    poll: select.epoll, sockets: dict[int, socket.socket], events: int
) -> "list[array[float]]":
    """Read until every watcher has got its events. `RuntimeError` if one gets more, or ends."""
    buffer = bytearray(BUFFER)
    got = dict.fromkeys(sockets, 0)
    brace = dict.fromkeys(sockets, False)
    arrivals = [array("d") for _ in range(events)]
    waiting = len(sockets)
    heard = time.monotonic()
    while waiting:
        time.sleep(NAP)
        ready = poll.poll(0, len(sockets))
        if ready:
            heard = time.monotonic()
        elif time.monotonic() > heard + TIMEOUT:
            raise RuntimeError(f"{waiting} watchers wait in vain")
        for number, _ in ready:
            size = sockets[number].recv_into(buffer)
            if not size:
                raise RuntimeError("the server closed a watch")
            lines = buffer.count(LINE_END, 0, size) + (brace[number] and buffer[0] == 10)
            brace[number] = buffer[size - 1] == 125
            if not lines:
                continue
            first, now = got[number], time.monotonic()
            last = got[number] = first + lines
            if last > events:
                raise RuntimeError("a watcher got an event twice")
            for arrived in arrivals[first:last]:
                arrived.append(now)
            waiting -= last == events
    return arrivals
