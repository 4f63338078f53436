"""Writes over many connections, each of which has one request under way all the time.

So the number of connections is the number of requests in flight. A connection asks for its next
request only when it is answered: what one connection does happens in order.
"""

import select
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench.wire import Wire

TIMEOUT = 60.0  # seconds without an answer after which a run is given up


class Request(NamedTuple):
    """The bytes of a request and the status that its answer must have."""

    data: bytes
    status: int


class Writers:
    """A connection for each source of requests. Use it as a context manager."""

    def __init__(self, url: str, sources: Sequence[Iterator[Request]]) -> None:
        self._wires = [(Wire(url), source) for source in sources]

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *error: object) -> None:
        for wire, _ in self._wires:
            wire.close()

    def rate(self, seconds: float) -> float:
        """Answers per second over about so many seconds."""
        begun = time.monotonic()
        answers = self._run(until=begun + seconds, count=1 << 62, gap=0.0)
        return answers / (time.monotonic() - begun)

    def write(self, count: int, *, pace: float = 0.0) -> None:
        """Have so many requests answered; no more than `pace` a second, unless that is 0."""
        self._run(until=float("inf"), count=count, gap=1 / pace if pace else 0.0)

    def _run(self, *, until: float, count: int, gap: float) -> int:
        """Send until a time or a number is reached, `gap` seconds apart at least."""
        begun = time.monotonic()
        idle = deque(self._wires)
        sent = answers = 0
        with select.epoll() as poll:
            by_number = {wire.fileno(): (wire, source) for wire, source in self._wires}
            for number in by_number:
                poll.register(number, select.EPOLLIN)
            while True:
                now = time.monotonic()
                while idle and sent < count and now < until and now >= begun + sent * gap:
                    wire, source = idle.popleft()
                    wire.send(*next(source))
                    sent += 1
                more = sent < count and now < until
                if not more and answers == sent:
                    return answers
                wait = max(0.0, begun + sent * gap - now) if idle and more else TIMEOUT
                ready = poll.poll(wait)
                if not ready and wait == TIMEOUT:
                    raise RuntimeError("the server does not answer")
                for number, _ in ready:
                    if by_number[number][0].read():
                        answers += 1
                        idle.append(by_number[number])
