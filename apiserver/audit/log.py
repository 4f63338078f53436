"""The lines of the audit log on their way to a file, written by a thread of their own.

The disk never stops the event loop, and one that fails does not stop requests: what cannot be kept,
in the queue or in the file, is counted and reported.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

import structlog

from apiserver.audit.loss import Loss

LINES = 10_000  # waiting, as upstream's buffer
BYTES = 64 << 20  # of them
CHUNK = 64 << 10  # bytes in one write: each one gives up the interpreter and waits for it again
PATIENCE = 5.0  # seconds that the last lines get at shutdown

Told = Callable[[bool], None]

log = structlog.get_logger()


class Sink(Protocol):
    """Where the lines go; it raises where they cannot."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class Log:
    """A bounded queue with a thread behind it, from the start until `close`.

    When it is full, new lines are dropped. `loss` counts them, those that the sink refused, and
    those that come after the end.
    """

    plugin = "log"

    def __init__(
        self,
        sink: Sink,
        *,
        lines: int = LINES,
        size: int = BYTES,
    ) -> None:
        self.loss = Loss()
        self._sink = sink
        self._most = lines
        self._size = size
        self._queue: deque[tuple[bytes, Told | None]] = deque()
        self._held = 0  # bytes in the queue
        self._closing = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="audit log", daemon=True)
        self._thread.start()

    def add(self, line: bytes, told: Told | None = None) -> None:
        """Never waits, and never fails. `told` hears whether it is written, from any thread."""
        with self._news:
            closing = self._closing
            full = len(self._queue) >= self._most or self._held + len(line) > self._size
            if not full and not closing:
                self._queue.append((line, told))
                self._held += len(line)
                self._news.notify()
                return
        self.loss.add(
            1, "the server ends" if closing else "the queue is full: the disk is too slow"
        )
        if told is not None:
            told(False)

    async def close(self) -> None:
        """Write what is waiting, for a few seconds at most."""
        with self._news:
            self._closing = True
            self._news.notify()
        await asyncio.to_thread(self._thread.join, PATIENCE)
        if self._thread.is_alive() and (left := len(self._queue)):
            self.loss.add(left, "the disk is too slow")

    def _run(self) -> None:
        while chunk := self._next():
            written = True
            try:
                self._sink.write(b"".join(line for line, _ in chunk))
            except Exception as error:  # noqa: BLE001  whatever it is, requests may wait for the next
                written = False
                self.loss.add(len(chunk), str(error) or repr(error))
            for _, told in chunk:
                if told is not None:
                    told(written)
        self._sink.close()

    def _next(self) -> list[tuple[bytes, Told | None]]:
        """What to write at once; empty at the end."""
        chunk: list[tuple[bytes, Told | None]] = []
        size = 0
        with self._news:
            while not self._queue and not self._closing:
                self._news.wait()
            while self._queue and (not chunk or size + len(self._queue[0][0]) <= CHUNK):
                chunk.append(self._queue.popleft())
                size += len(chunk[-1][0])
            self._held -= size
        return chunk
