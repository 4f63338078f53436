"""The lines of the audit log on their way to a file, written by a thread of their own.

Requests never wait for the disk, and one that fails does not stop them: what cannot be kept, in the
queue or in the file, is counted and reported.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import structlog

LINES = 10_000  # waiting, as upstream's buffer
BYTES = 64 << 20  # of them
CHUNK = 64 << 10  # bytes in one write: each one gives up the interpreter and waits for it again
PATIENCE = 5.0  # seconds that the last lines get at shutdown
QUIET = 10.0  # seconds between two reports of what is lost

log = structlog.get_logger()


class Sink(Protocol):
    """Where the lines go; `OSError` where they cannot."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class Log:
    """A bounded queue with a thread behind it, from the start until `close`.

    When it is full, new lines are dropped. `lost` counts them and those that the sink refused.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        lines: int = LINES,
        size: int = BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lost = 0
        self._sink = sink
        self._most = lines
        self._size = size
        self._clock = clock
        self._queue: deque[bytes] = deque()
        self._held = 0  # bytes in the queue
        self._closing = False
        self._news = threading.Condition()
        self._reported = 0
        self._quiet_until = 0.0
        self._thread = threading.Thread(target=self._run, name="audit log", daemon=True)
        self._thread.start()

    def add(self, line: bytes) -> None:
        """Never waits, and never fails."""
        with self._news:
            if len(self._queue) < self._most and self._held + len(line) <= self._size:
                self._queue.append(line)
                self._held += len(line)
                self._news.notify()
                return
        self.lose(1, "the queue is full: the disk is too slow")

    def lose(self, count: int, why: str) -> None:
        """Count events that are not written, and say so now and then."""
        with self._news:
            self.lost += count
            if self._clock() < self._quiet_until:
                return
            self._quiet_until = self._clock() + QUIET
            since, self._reported = self.lost - self._reported, self.lost
        with contextlib.suppress(OSError):  # the server's own log may be on the same disk
            log.error("audit events are lost", why=why, events=since)

    def close(self) -> None:
        """Write what is waiting, for a few seconds at most. Blocks."""
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            log.error("audit events are lost", why="the disk is too slow", events=len(self._queue))

    def _run(self) -> None:
        while chunk := self._next():
            try:
                self._sink.write(b"".join(chunk))
            except OSError as error:
                self.lose(len(chunk), str(error))
        self._sink.close()

    def _next(self) -> list[bytes]:
        """What to write at once; empty at the end."""
        chunk: list[bytes] = []
        size = 0
        with self._news:
            while not self._queue and not self._closing:
                self._news.wait()
            while self._queue and (not chunk or size + len(self._queue[0]) <= CHUNK):
                chunk.append(self._queue.popleft())
                size += len(chunk[-1])
            self._held -= size
        return chunk
