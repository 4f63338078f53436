"""Follow the ring of one resource for one client, from a position on.

While the client keeps up, a change is sent from within the cacher's own call, without waking a
task; `follow` waits beside it. When the client does not take what is sent, `follow` takes over
until it does.
"""

import asyncio
from collections.abc import Awaitable, Callable

from apiserver.cache.cacher import Cacher
from apiserver.cache.objects import Objects
from apiserver.cache.ring import Overrun
from apiserver.cache.session import Lines
from apiserver.http import eager
from apiserver.http.metrics import WatchEvents
from apiserver.http.stream import Stream


class Tail:
    """`lines` gives what the client sees from a position on; `wrote` is when it was last sent any.

    Times are those of the event loop, in seconds.
    """

    def __init__(
        self,
        cacher: Cacher,
        objects: Objects,
        *,
        position: int,
        lines: Callable[[Objects, int], Lines],
        out: Stream,
        sent: WatchEvents,
    ) -> None:
        self._cacher = cacher
        self._objects = objects
        self._position = position
        self._lines = lines
        self._out = out
        self._sent = sent
        self._loop = asyncio.get_running_loop()
        self.wrote = self._loop.time()
        self._idle: asyncio.Future[None] | None = None  # while `follow` waits
        self._called = False  # whether the cacher will call when it moves
        self._rest: Awaitable[None] | None = None
        self._failure: Exception | None = None

    async def follow(self, *, until: float | None) -> None:
        """Send what comes. Returns at the time `until`, when the client has all there is.

        `Overrun` where the client has fallen behind what is kept, or the ring ends.
        """
        while True:
            rest, self._rest = self._rest or self._send(), None
            if rest is not None:
                await rest
                continue
            self._idle = self._loop.create_future()
            if not self._called:
                self._called = True
                self._cacher.on_move(self._moved)
            try:
                async with asyncio.timeout_at(until):
                    await self._idle
                late = False
            except TimeoutError:
                late = True
            self._idle = None
            if self._failure is not None:
                raise self._failure
            if late and self._rest is None and self._position == self._objects.ring.end:
                return

    def _send(self) -> Awaitable[None] | None:
        """Send all there is; what is left to await where the client is not ready for it."""
        objects = self._objects
        if objects.stale:
            raise Overrun
        while self._position < objects.ring.end:
            found = self._lines(objects, self._position)
            self._position = found.end
            if found.lines:
                self.wrote = self._loop.time()
                self._sent.add(found.lines)
                rest = eager.start(self._out.write(found.lines, found.joined))
                if rest is not None:
                    return rest
        return None

    def _moved(self) -> None:
        """The cacher has moved."""
        self._called = False
        if self._idle is None or self._idle.done():
            return
        try:
            self._rest = self._send()
        except Exception as error:  # noqa: BLE001  raised where the client is served
            self._failure = error
        if self._rest is None and self._failure is None:
            self._called = True
            self._cacher.on_move(self._moved)
        else:
            self._idle.set_result(None)
