"""Many watchers in one process of its own, which only counts the events that they are sent.

A line of a watch ends with a brace and a newline, and no chunk header does, so lines are counted
in the raw stream, whatever chunks they come in. Between two looks at its sockets the process naps:
one that waited on them would be woken for every event, and the server pays for waking it. That
would cost the slower of two servers more, and it is no cost of either's code.
"""

import multiprocessing
import select
import socket
import time
from multiprocessing.connection import Connection as Pipe

from bench import connection

BUFFER = 256 << 10  # bytes of one read
LINE_END = b"}\n"
NAP = 0.001  # seconds; a round takes some hundreds of these
TIMEOUT = 60.0  # seconds without an event after which a run is given up


class Watchers:
    """A process that holds so many watches of one path open. Use it as a context manager."""

    def __init__(self, url: str, path: str, *, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_run, args=(theirs, url, path, count), name="watchers", daemon=True
        )

    def __enter__(self) -> "Watchers":
        self._process.start()
        self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def expect(self, events: int) -> None:
        """Start counting: every watcher will be sent so many events. Before they are caused."""
        self._pipe.send(events)
        self._answer()

    def done(self) -> float:
        """Wait for the last event of the last watcher; its time on `time.monotonic`."""
        return self._answer()

    def _answer(self) -> float:
        if not self._pipe.poll(TIMEOUT * 2):
            raise RuntimeError("the watchers say nothing")
        try:
            moment: float = self._pipe.recv()
        except EOFError:
            raise RuntimeError("the watchers failed") from None
        return moment


def _run(pipe: Pipe, url: str, path: str, count: int) -> None:
    """Open the watches, then count for every number of events that comes through the pipe."""
    request = connection.get_request(url, path)
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
    with select.epoll() as poll:
        for sock in sockets:
            poll.register(sock.fileno(), select.EPOLLIN)
        by_number = {sock.fileno(): sock for sock in sockets}
        pipe.send(time.monotonic())
        while True:
            events = pipe.recv()
            pipe.send(time.monotonic())
            _count(poll, by_number, events)
            pipe.send(time.monotonic())


def _count(poll: select.epoll, sockets: dict[int, socket.socket], events: int) -> None:
    """Read until every watcher has got its events. `RuntimeError` if one gets more, or stops."""
    buffer = bytearray(BUFFER)
    missing = dict.fromkeys(sockets, events)
    brace = dict.fromkeys(sockets, False)
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
            left = missing[number] = missing[number] - lines
            if left < 0:
                raise RuntimeError("a watcher got an event twice")
            waiting -= not left
