"""The two ways in which a watch is sent: chunks of an HTTP response, or frames of a WebSocket."""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from starlette.types import Message, Receive, Scope, Send

from apiserver.cache.session import Lines
from apiserver.http.negotiation import JSON

BEARER = "base64url.bearer.authorization.k8s.io."  # a token that travels as a subprotocol


class Stream(Protocol):
    """Where the lines of a watch go; each line is one event and ends with a newline."""

    async def open(self) -> None: ...

    def write(self, found: Lines) -> Coroutine[Any, Any, None]: ...

    async def close(self) -> None: ...

    def abort(self) -> None:
        """Drop the connection with whatever the client has not taken."""

    async def gone(self) -> None:
        """Return when the client has left."""


def of(scope: Scope, receive: Receive, send: Send) -> Stream:
    return Frames(scope, receive, send) if scope.get("websocket") else Chunks(scope, receive, send)


class Chunks:
    """What is ready goes out as one chunk: a send for each event would cost five times as much."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._body: Callable[[Message], Coroutine[Any, Any, None]] = scope["send_body"]
        self._abort: Callable[[], None] = scope["abort"]

    async def open(self) -> None:
        headers = [(b"content-type", JSON.encode())]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        # Clients wait for the headers; an empty chunk with more to come flushes them alone.
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})

    def write(self, found: Lines) -> Coroutine[Any, Any, None]:
        # The server's own coroutine as it is: this is done for each client and change.
        return self._body({"type": "http.response.body", "body": found.joined, "more_body": True})

    async def close(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def abort(self) -> None:
        self._abort()

    async def gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


class Frames:
    """A text frame for each event, as k8s.io/apiserver sends them; closed with 1000."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._offered = scope.get("subprotocols", ())
        self._receive = receive
        self._send = send

    async def open(self) -> None:
        await self._receive()
        protocol = next((name for name in self._offered if not name.startswith(BEARER)), None)
        await self._send({"type": "websocket.accept", "subprotocol": protocol})

    async def write(self, found: Lines) -> None:
        for line in found.lines:
            await self._send({"type": "websocket.send", "text": line.decode()})

    async def close(self) -> None:
        await self._send({"type": "websocket.close", "code": 1000})

    def abort(self) -> None:
        """The server's own WebSocket protocol gives up on a client that does not answer."""

    async def gone(self) -> None:
        while (await self._receive())["type"] != "websocket.disconnect":
            pass
