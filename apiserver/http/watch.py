"""Serve a watch: the cache's changes as JSON lines until time, client or server ends it.

The pure session decides what the client sees; this reads the ring, encodes and sends. What happened
before the ring's first event is read from the store. A client that is slower than the ring is ended
with 410 and lists again: nobody waits for it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

import structlog
from starlette.types import Receive, Scope, Send

from apiserver.api import encoding, status
from apiserver.api.resource import Resource
from apiserver.cache import session
from apiserver.cache.cacher import Cacher
from apiserver.cache.object import Change
from apiserver.cache.objects import Objects
from apiserver.cache.ring import Expired, Overrun
from apiserver.cache.session import Lines, Seen, View
from apiserver.http import responses, stream
from apiserver.http.metrics import Metrics
from apiserver.http.negotiation import Output
from apiserver.http.options import WatchOptions
from apiserver.http.stream import Stream
from apiserver.http.tail import Audience, Tail
from apiserver.registry.reader import Reader
from storage import Unavailable

BATCH = 1_000  # changes in one write
CHUNK = 128 << 10  # bytes of them: so much does a slow client make the server hold
STALL = 30.0  # seconds in which a client must take that much, while the ring does not judge it
PARTING = 2.0  # seconds that a client gets to take the last of a watch
KEPT = 10.0  # seconds that its last audit event gets to be kept, where requests wait for theirs
BOOKMARK = 30.0  # seconds: a heartbeat that also defeats the idle timeouts of load balancers
LAST_BOOKMARK = 2.0  # seconds before the deadline
INITIAL_END = "k8s.io/initial-events-end"
BEHIND = "the watch fell behind the events that are kept; list again"

log = structlog.get_logger()


class Watch:
    """An ASGI application that is one watch, over HTTP or a WebSocket.

    It ends `deadline` seconds after its start where the client asked for no other time.
    """

    def __init__(
        self,
        *,
        cacher: Cacher,
        reader: Reader,
        resource: Resource,
        view: View,
        output: Output,
        asked: WatchOptions,
        metrics: Metrics,
        stopping: asyncio.Event,
        clock: Callable[[], float],
        deadline: float,
    ) -> None:
        self._cacher = cacher
        self._reader = reader
        self._resource = resource
        self._view = view
        self._output = output
        self._asked = asked
        self._metrics = metrics
        self._sent = metrics.watch_events(resource)
        self._stopping = stopping
        self._clock = clock
        self._timeout = deadline if asked.timeout is None else asked.timeout
        self._headers = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the deadline, a disconnect or the server's stop, then end cleanly."""
        out = stream.of(scope, receive, send)
        await out.open()
        tasks = (
            asyncio.create_task(self._stream(out, scope), name="watch"),
            asyncio.create_task(out.gone(), name="watch disconnect"),
            asyncio.create_task(self._stopping.wait(), name="watch stop"),
        )
        opened = self._metrics.open_watches(self._resource)
        opened.inc()
        try:
            await asyncio.wait(tasks, timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            opened.dec()
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(outcomes[0], Exception):
            raise outcomes[0]
        ending: Callable[[], Awaitable[None]] | None = scope.get("ending")
        if ending is not None and outcomes[1] is not None:  # for a client that is still there
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KEPT):
                    await ending()
        await _in_time(out, out.close())

    async def _stream(self, out: Stream, scope: Scope) -> None:
        try:
            await self._run(out)
        except Expired as error:
            text = f"too old resource version: {self._asked.revision} ({error.oldest})"
            await _write(out, [_error(status.expired(text))])
        except Overrun:
            self._metrics.terminated(self._resource)
            agent = scope["fields"].get(b"user-agent", b"").decode("latin-1")
            log.warning(
                "watch ended: its client was too slow, or the cache began anew",
                resource=self._resource.qualified,
                client=scope.get("client"),
                agent=agent,
            )
            await _in_time(out, _write(out, [_error(status.expired(BEHIND))]))
        except status.StatusError as error:
            await _write(out, [_error(error)])
        except Unavailable as error:
            # It just ends: the client goes on from what it was told last.
            log.warning("watch ended: its history cannot be read", error=str(error))

    async def _run(self, out: Stream) -> None:
        loop = asyncio.get_running_loop()
        # A watch shorter than that has no last bookmark.
        early = self._timeout > LAST_BOOKMARK
        last = loop.time() + self._timeout - LAST_BOOKMARK if early else float("inf")
        objects, revision = await self._begin(out)
        position = await self._position(objects, await self._past(out, objects, revision))
        tail = Tail(self._audience(objects), position, out.write)
        while True:
            due = min(loop.time() + BOOKMARK, last)
            await tail.follow(until=due if self._asked.bookmarks else None)
            await _unless_stalled(out, [self._bookmark(objects.revision)])
            if loop.time() >= last:
                last = float("inf")

    def _audience(self, objects: Objects) -> Audience:
        """All that see the same share one: those without a selector and a transformation."""
        alike = self._view.everything and not self._output.transform
        prefix = self._view.prefix if alike else ""
        found: Audience | None = objects.audiences.get(prefix)
        return found or Audience(
            objects, lines=partial(self._lines, objects), sent=self._sent, shared_as=prefix
        )

    def _lines(self, objects: Objects, position: int) -> Lines:
        changes = objects.ring.read(position, count=BATCH, limit=CHUNK)
        return Lines.of(self._seen(changes), position + len(changes))

    def _seen(self, changes: Sequence[Change]) -> list[bytes]:
        return [self._line(event) for event in session.seen(self._view, changes)]

    async def _begin(self, out: Stream) -> tuple[Objects, int]:
        """Send the starting state where one is wanted; what to follow, and after what."""
        await self._cacher.until_ready()
        if not self._asked.state:
            return self._cacher.objects(self._resource), await self._start()
        found = await self._reader.state(self._resource, self._view, self._asked.revision)
        objects = self._cacher.objects(self._resource)
        await self._send(out, map(self._line, session.initial(found.items)))
        if self._asked.marked:
            await _unless_stalled(out, [self._bookmark(found.revision, end=True)])
        return objects, found.revision

    async def _start(self) -> int:
        """Without a state to send, a watch from no revision or 0 begins at the newest one."""
        if self._asked.revision:
            return self._asked.revision
        return await self._reader.newest()

    async def _past(self, out: Stream, objects: Objects, revision: int) -> int:
        """Send what the store knows and the ring does not; where the ring can go on."""
        while revision < objects.ring.floor and not objects.stale:
            past = self._cacher.history(objects, revision)
            async with contextlib.aclosing(past) as batches:
                async for changes, complete in batches:
                    await self._send(out, self._seen(changes))
                    revision = max(revision, complete)
        return revision

    async def _position(self, objects: Objects, revision: int) -> int:
        """Where the ring goes on after a revision; one of the future is waited for."""
        while objects.revision < revision and not objects.stale:
            await self._cacher.moved()
        if objects.stale:
            raise Overrun
        return objects.ring.after(revision)

    async def _send(self, out: Stream, lines: Iterable[bytes]) -> None:
        """Send what came before the ring, in portions."""
        portion, size = [], 0
        for line in lines:
            self._sent.add(len(line))
            portion.append(line)
            size += len(line)
            if size > CHUNK:
                await _unless_stalled(out, portion)
                portion, size = [], 0
        if portion:
            await _unless_stalled(out, portion)

    def _line(self, event: Seen) -> bytes:
        if not self._output.transform:
            return session.line(event)
        obj = self._transformed(event.item.parse(), headers=self._headers)
        self._headers = False
        return encoding.dumps({"type": event.type, "object": obj}) + b"\n"

    def _transformed(self, obj: dict[str, Any], *, headers: bool) -> dict[str, Any]:
        convert = responses.transform(
            self._resource, self._output, now=self._clock(), headers=headers
        )
        return convert(obj)

    def _bookmark(self, revision: int, *, end: bool = False) -> bytes:
        metadata: dict[str, object] = {"resourceVersion": str(revision)}
        if end:
            metadata["annotations"] = {INITIAL_END: "true"}
        obj: dict[str, object] = {
            "kind": self._resource.kind,
            "apiVersion": self._resource.api_version,
            "metadata": metadata,
        }
        if self._output.transform:
            obj = self._transformed(obj, headers=False)
        return encoding.dumps({"type": "BOOKMARK", "object": obj}) + b"\n"


def _error(error: status.StatusError) -> bytes:
    return encoding.dumps({"type": "ERROR", "object": error.as_json()}) + b"\n"


async def _in_time(out: Stream, parting: Awaitable[None]) -> None:
    """Send the last of a watch. A client that takes nothing would keep it from ever ending."""
    try:
        async with asyncio.timeout(PARTING):
            await parting
    except TimeoutError:
        out.abort()
        with contextlib.suppress(TimeoutError):  # who goes before the connection has not finished
            async with asyncio.timeout(PARTING):
                await out.gone()


async def _unless_stalled(out: Stream, lines: Sequence[bytes]) -> None:
    """Send to a client that takes it in time; else `Overrun`."""
    try:
        async with asyncio.timeout(STALL):
            await _write(out, lines)
    except TimeoutError:
        raise Overrun from None


async def _write(out: Stream, lines: Sequence[bytes]) -> None:
    await out.write(Lines.of(lines, 0))
