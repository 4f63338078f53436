"""Audit events that were not kept: how many, and a word about it in the log now and then."""

import contextlib
import threading
import time
from collections.abc import Callable

import structlog

QUIET = 10.0  # seconds between two reports

log = structlog.get_logger()


class Loss:
    """Counts them, from any thread."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._reported = 0
        self._quiet_until = 0.0

    def add(self, count: int, why: str) -> None:
        with self._lock:
            self.count += count
            if self._clock() < self._quiet_until:
                return
            self._quiet_until = self._clock() + QUIET
            since, self._reported = self.count - self._reported, self.count
        # The server's own log may be on the same disk, or closed.
        with contextlib.suppress(OSError, ValueError):
            log.error("audit events are lost", why=why, events=since)
