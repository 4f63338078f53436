"""Where the lines about flows go: a file or standard output, written by a thread of its own.

Whoever adds a line never waits and never fails. A full disk, a closed pipe or one that nobody reads
costs lines, which are counted, and nothing else.
"""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable

import structlog

STANDARD_OUTPUT = "-"
WAITING = 1000  # lines, some 500 KB: 50 seconds of as many as there can be
PATIENCE = 2.0  # seconds that the last lines get at the end
QUIET = 60.0  # seconds between two reports of what is lost
MODE = 0o600  # who talks to whom is nobody else's business

log = structlog.get_logger()


class FlowLog:
    """A bounded queue with a thread behind it, until `close`. `dropped` and `written` are lines.

    A file is opened with the first line, appended to, and opened again after `reopen` and after an
    error.
    """

    def __init__(
        self,
        path: str,
        *,
        waiting: int = WAITING,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dropped = 0
        self.written = 0
        self._path = path
        self._most = waiting
        self._monotonic = monotonic
        self._queue: deque[bytes] = deque()
        self._news = threading.Condition()
        self._closing = False
        self._reopen = False
        self._file: int | None = None
        self._torn = False  # the file ends within a line
        self._reported = 0
        self._quiet_until = float("-inf")
        self._thread = threading.Thread(target=self._run, name="flow log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """A line with its end."""
        with self._news:
            if len(self._queue) < self._most and not self._closing:
                self._queue.append(line)
                self._news.notify()
            else:
                self.dropped += 1

    def reopen(self) -> None:
        """For SIGHUP, after the file was moved away: the next line goes to a new one."""
        with self._news:
            self._reopen = True
            self._news.notify()

    def close(self, patience: float = PATIENCE) -> None:
        """Write what is waiting, for so many seconds at most. Blocks."""
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join(patience)

    def _run(self) -> None:
        while (line := self._next()) is not None:
            why = "the reader is too slow"
            try:
                self._append(line)
            except OSError as error:
                self._close()
                why = str(error)
                with self._news:
                    self.dropped += 1
            self._report(why)
        self._close()

    def _next(self) -> bytes | None:
        """The next line; None at the end."""
        with self._news:
            while True:
                if self._reopen:
                    self._reopen = False
                    self._close()
                if self._queue:
                    return self._queue.popleft()
                if self._closing:
                    return None
                self._news.wait()

    def _append(self, line: bytes) -> None:
        if self._file is None:
            self._file = self._open()
        rest = memoryview(b"\n" + line if self._torn else line)
        while rest:
            done = os.write(self._file, rest)
            rest = rest[done:]
            self._torn = bool(rest)
        self.written += 1

    def _open(self) -> int:
        if self._path == STANDARD_OUTPUT:
            return os.dup(1)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(self._path, flags, MODE)

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):
                os.close(file)

    def _report(self, why: str) -> None:
        """Say now and then what was lost."""
        with self._news:
            since = self.dropped - self._reported
            if not since or self._monotonic() < self._quiet_until:
                return
            self._quiet_until = self._monotonic() + QUIET
            self._reported = self.dropped
        # The process's own log may be on the same disk, or be the same pipe.
        with contextlib.suppress(OSError, ValueError):
            log.error("flow records are lost", path=self._path, why=why, lines=since)
