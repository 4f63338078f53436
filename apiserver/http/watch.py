"""Serve a watch: the cache's changes as chunked JSON lines until time, client or server ends it.

The pure session decides what the client sees; this reads the ring, encodes and sends. What is
ready goes out as one chunk. A client that is slower than the ring is ended with 410 and lists
again: nobody waits for it.
"""

import asyncio
import random
from collections.abc import Callable, Iterable

from starlette.types import Receive, Scope, Send

from apiserver.api import encoding, status
from apiserver.api.resource import Resource
from apiserver.cache import session
from apiserver.cache.cacher import Cacher
from apiserver.cache.objects import Object, Objects
from apiserver.cache.ring import Expired, Overrun
from apiserver.cache.session import Seen, View
from apiserver.http import responses
from apiserver.http.negotiation import JSON, Output
from apiserver.registry.reader import Reader

BATCH = 1_000  # changes in one chunk
BOOKMARK = 30.0  # seconds: a heartbeat that also defeats the idle timeouts of load balancers
LAST_BOOKMARK = 2.0  # seconds before the deadline
MIN_TIMEOUT = 1800.0  # seconds; the deadline is drawn from once to twice that, as upstream
INITIAL_END = "k8s.io/initial-events-end"


class Watch:
    """An ASGI application that is one watch stream.

    `start` is the revision to watch after; None starts with the present state, and `initial`
    marks its end with the annotated bookmark.
    """

    def __init__(
        self,
        *,
        cacher: Cacher,
        reader: Reader,
        resource: Resource,
        view: View,
        output: Output,
        include: str,
        revision: int | None,
        state: bool,
        initial: bool,
        bookmarks: bool,
        timeout: float | None,
        stopping: asyncio.Event,
        clock: Callable[[], float],
        rand: random.Random,
    ) -> None:
        self._cacher = cacher
        self._reader = reader
        self._resource = resource
        self._view = view
        self._output = output
        self._include = include
        self._revision = revision
        self._state = state
        self._initial = initial
        self._bookmarks = bookmarks
        self._timeout = timeout if timeout is not None else MIN_TIMEOUT * (1 + rand.random())
        self._stopping = stopping
        self._clock = clock
        self._headers = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the deadline, a disconnect or the server's stop, then end cleanly."""
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", JSON.encode())],
            }
        )
        # An empty chunk would end the body: a first send without one only flushes the headers.
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        stream = asyncio.create_task(self._stream(send), name="watch")
        gone = asyncio.create_task(_disconnected(receive), name="watch disconnect")
        stop = asyncio.create_task(self._stopping.wait(), name="watch stop")
        try:
            await asyncio.wait(
                (stream, gone, stop),
                timeout=self._timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            for task in (stream, gone, stop):
                task.cancel()
            outcomes = await asyncio.gather(stream, gone, stop, return_exceptions=True)
        failed = outcomes[0]
        if isinstance(failed, Exception):
            raise failed
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stream(self, send: Send) -> None:
        try:
            await self._run(send)
        except Expired as error:
            text = f"too old resource version: {self._revision} ({error.oldest})"
            await self._send(send, self._error(status.expired(text)))
        except Overrun:
            text = "the watch fell behind the events that are kept; list again"
            await self._send(send, self._error(status.expired(text)))
        except status.StatusError as error:
            await self._send(send, self._error(error))

    async def _run(self, send: Send) -> None:
        with self._cacher.waker() as waker:
            objects, revision = await self._begin(send)
            position = await self._position(objects, revision, waker)
            loop = asyncio.get_running_loop()
            begun = loop.time()
            beat = begun + BOOKMARK
            last = begun + self._timeout - LAST_BOOKMARK
            while True:
                waker.clear()
                if self._cacher.objects(self._resource) is not objects:
                    raise Overrun
                changes = objects.ring.read(position, BATCH)
                position += len(changes)
                lines = [self._line(event) for event in session.seen(self._view, changes)]
                if lines:
                    await self._send(send, b"".join(lines))
                    beat = loop.time() + BOOKMARK
                if position < objects.ring.end:
                    continue
                due = min(beat, last) if last > loop.time() else beat
                try:
                    async with asyncio.timeout_at(due if self._bookmarks else None):
                        await waker.wait()
                except TimeoutError:
                    if position == objects.ring.end:
                        await self._send(send, self._bookmark(objects.revision))
                    beat = loop.time() + BOOKMARK
                    if loop.time() >= last:
                        last = float("-inf")

    async def _begin(self, send: Send) -> tuple[Objects, int]:
        """Send the starting state where one is wanted; what to follow, and after what."""
        await self._cacher.until_ready()
        if not self._state:
            return self._cacher.objects(self._resource), self._revision or 0
        found = await self._reader.state(self._resource, self._view, self._revision)
        objects = self._cacher.objects(self._resource)
        for first in range(0, len(found.items), BATCH):
            await self._send(send, self._lines(session.initial(found.items[first : first + BATCH])))
        if self._initial:
            await self._send(send, self._bookmark(found.revision, end=True))
        return objects, found.revision

    async def _position(self, objects: Objects, revision: int, waker: asyncio.Event) -> int:
        """Where the ring goes on after a revision; one of the future is waited for."""
        while objects.revision < revision:
            waker.clear()
            await waker.wait()
            if self._cacher.objects(self._resource) is not objects:
                raise Overrun
        return objects.ring.after(revision)

    def _lines(self, events: Iterable[Seen]) -> bytes:
        return b"".join([self._line(event) for event in events])

    def _line(self, event: Seen) -> bytes:
        if not self._output.transform:
            if event.change is not None:
                return event.change.line(event.type, event.item)
            return _line(event.type, event.item)
        convert = responses.transform(
            self._resource,
            self._output,
            include=self._include,
            now=self._clock(),
            headers=self._headers,
        )
        self._headers = False
        return b'{"type":"%s","object":%s}\n' % (
            event.type.encode(),
            encoding.dumps(convert([event.item.parse()])),
        )

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
            convert = responses.transform(
                self._resource,
                self._output,
                include=self._include,
                now=self._clock(),
                headers=False,
            )
            obj = convert([obj])
        return encoding.dumps({"type": "BOOKMARK", "object": obj}) + b"\n"

    def _error(self, error: status.StatusError) -> bytes:
        return encoding.dumps({"type": "ERROR", "object": error.as_json()}) + b"\n"

    async def _send(self, send: Send, body: bytes) -> None:
        if body:
            await send({"type": "http.response.body", "body": body, "more_body": True})


def _line(kind: str, item: Object) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), item.data)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
