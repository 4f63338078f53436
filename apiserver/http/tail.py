"""Follow the ring of one resource, for one client (`Tail`) and for all that see alike (`Audience`).

A client that has all there is waits in an audience, and the next change is sent to the whole
audience from within the cacher's own call, without waking a task for each. One that does not take
what is sent leaves the audience and is served alone until it has caught up, or until what it still
has to be sent is no longer kept.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from apiserver.api.tally import Tally
from apiserver.cache.objects import Objects
from apiserver.cache.ring import Overrun
from apiserver.cache.session import Lines
from apiserver.http import eager

Write = Callable[[Lines], Coroutine[Any, Any, None]]


class Audience:
    """Clients that see the same and have all of it up to `position`.

    `lines` gives what they see from a position on. While it has members, others find it among the
    audiences of its objects under the name `shared_as`; without one it is for a single client.
    """

    def __init__(
        self,
        objects: Objects,
        *,
        lines: Callable[[int], Lines],
        sent: Tally,
        shared_as: str = "",
    ) -> None:
        self.objects = objects
        self.lines = lines
        self.sent = sent
        self.position = 0
        self._shared_as = shared_as
        self._members: dict[Tail, None] = {}

    def join(self, tail: "Tail") -> None:
        """Take in a client that stands at the ring's end, which is where all members stand."""
        self.position = self.objects.ring.end
        self._members[tail] = None
        if self._shared_as:
            self.objects.audiences[self._shared_as] = self
        self.objects.on_change(self._changed)

    def leave(self, tail: "Tail") -> None:
        self._members.pop(tail, None)
        self._forget_if_empty()

    def _forget_if_empty(self) -> None:
        # What clients name, such as a namespace, must not stay when they are gone.
        if self._members:
            return
        self.objects.forget(self._changed)
        if self.objects.audiences.get(self._shared_as) is self:
            del self.objects.audiences[self._shared_as]

    def _changed(self) -> None:
        if self.objects.stale:
            for tail in tuple(self._members):
                self._let_go(tail, failure=Overrun())
        while self._members and self.position < self.objects.ring.end:
            try:
                found = self.lines(self.position)
            except Exception as error:  # noqa: BLE001  raised where the clients are served
                for tail in tuple(self._members):
                    self._let_go(tail, failure=error)
                return
            self.position = found.end
            if found.lines:
                self._send(found)
        if self._members:
            self.objects.on_change(self._changed)

    def _send(self, found: Lines) -> None:
        for line in found.lines:
            self.sent.add(len(line), times=len(self._members))
        for tail in tuple(self._members):
            try:
                rest = eager.start(tail.write(found))
            except Exception as error:  # noqa: BLE001  raised where the client is served
                self._let_go(tail, failure=error)
            else:
                if rest is not None:
                    self._let_go(tail, rest=rest)

    def _let_go(
        self,
        tail: "Tail",
        *,
        rest: Awaitable[None] | None = None,
        failure: Exception | None = None,
    ) -> None:
        del self._members[tail]
        self._forget_if_empty()
        tail.wake(self.position, rest, failure)


class Tail:
    """One client's way along the ring."""

    def __init__(self, audience: Audience, position: int, write: Write) -> None:
        self.write = write
        self._audience = audience
        self._position = position
        self._rest: Awaitable[None] | None = None
        self._failure: Exception | None = None
        self._idle = asyncio.Event()  # set when there is something to do

    async def follow(self, *, until: float | None) -> None:
        """Send what comes. Returns at the loop's time `until`, when the client has all there is.

        `Overrun` where the client has fallen behind what is kept, or the ring ends.
        """
        audience = self._audience
        while True:
            if self._rest is not None:
                rest, self._rest = self._rest, None
                await self._finish(rest)
            await self._catch_up()
            self._idle.clear()
            audience.join(self)
            late = False
            try:
                async with asyncio.timeout_at(until):
                    await self._idle.wait()
            except TimeoutError:
                late = True
            finally:
                if not self._idle.is_set():
                    audience.leave(self)
                    self._position = audience.position
            if self._failure is not None:
                raise self._failure
            if late and not self._idle.is_set():
                return

    def wake(self, position: int, rest: Awaitable[None] | None, failure: Exception | None) -> None:
        """The audience has let go of this client, which stands at a position."""
        self._position = position
        self._rest, self._failure = rest, failure
        self._idle.set()

    async def _catch_up(self) -> None:
        audience = self._audience
        while not audience.objects.stale and self._position < audience.objects.ring.end:
            found = audience.lines(self._position)
            self._position = found.end
            if found.lines:
                for line in found.lines:
                    audience.sent.add(len(line))
                if (rest := eager.start(self.write(found))) is not None:
                    await self._finish(rest)
        if audience.objects.stale:
            raise Overrun

    async def _finish(self, rest: Awaitable[None]) -> None:
        """Wait until the client has taken what was sent, but no longer than the ring waits."""
        lost = asyncio.get_running_loop().create_future()

        def look() -> None:
            if lost.done():
                return
            if self._audience.objects.stale or self._position < self._audience.objects.ring.first:
                lost.set_result(None)
            else:
                self._audience.objects.on_change(look)

        look()
        sending = asyncio.ensure_future(_all_of(rest))
        try:
            await asyncio.wait((sending, lost), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._audience.objects.forget(look)
            lost.cancel()
            if not sending.done():
                sending.cancel()
        if not sending.done():
            with contextlib.suppress(asyncio.CancelledError):
                await sending
            raise Overrun
        sending.result()


async def _all_of(rest: Awaitable[None]) -> None:
    await rest
