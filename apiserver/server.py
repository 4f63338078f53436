"""uvicorn with what it lacks: watches that end at shutdown, in order, and a word when it serves."""

import asyncio
import os
import socket
import ssl
from types import FrameType
from typing import Any

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from apiserver.auth.peer import Peer
from apiserver.lifecycle import Lifecycle
from apiserver.tls import Serving

KEEP_ALIVE = 75  # seconds; below the 90 s after which Go clients drop idle connections
DRAIN = 60  # seconds that requests in flight get at shutdown, as upstream
HEAD_SECONDS = 32  # that the head of a request may take, as upstream's ReadHeaderTimeout
HEAD_BYTES = 1 << 20  # of the head of a request, as Go's net/http

log = structlog.get_logger()


class _Joining:
    """A transport that sends the head of a response with what follows it, in one system call.

    Where nothing follows at once, as in a watch, the head goes in the next turn of the event loop.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            data, self._head = self._head, b""
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Protocol(HttpToolsProtocol):
    """Tells the application more than ASGI does: `scope["abort"]` drops the connection, and
    `scope["peer"]` is the client's certificate, if it sent one.

    A head of a request that is too large, or too long in coming, ends the connection.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.peer: Peer | None = None
        self._context: ssl.SSLContext | None = None
        self._in_head = True
        self._head = 0  # bytes of it so far, and of what came with them
        self._slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Joining(transport, self.loop))  # type: ignore[arg-type]
        connection = transport.get_extra_info("ssl_object")
        self.peer = Peer.of(connection)
        self._context = None if connection is None else connection.context
        if connection is not None and connection.session_reused:
            # OpenSSL has forgotten who signed the client's certificate; a full handshake tells.
            transport.abort()
        self._slow = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._in_time()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self.send_400_response("The head of the request is too large.")
                return
        super().data_received(data)
        if self._head and self._in_head and self._slow is None:
            self._slow = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["abort"] = self.transport.abort  # type: ignore[typeddict-unknown-key]
        self.scope["peer"] = self.peer  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._in_time()
        super().on_headers_complete()
        serving = self.config.ssl
        if self.cycle is not None and isinstance(serving, Serving):
            # Whoever sent no certificate because another authority was believed must come again.
            self.cycle.keep_alive &= serving.up_to_date(self._context)

    def on_message_complete(self) -> None:
        self._in_head, self._head = True, 0
        super().on_message_complete()

    def _in_time(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None


class WebSocket(WebSocketsSansIOProtocol):
    """The same of the client's certificate for a WebSocket."""

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):  # not where the handshake was refused
            connection = self.transport.get_extra_info("ssl_object")
            self.scope["peer"] = Peer.of(connection)  # type: ignore[typeddict-unknown-key]


class Server(uvicorn.Server):
    """Ends in order: not ready, then after `delay` seconds no watches, then no connections.

    An open watch would keep uvicorn from ever shutting down. A second signal ends the process at
    once: storage survives that.
    """

    def __init__(self, config: uvicorn.Config, *, lifecycle: Lifecycle, delay: float) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._delay = delay

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(1)
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in getattr(self, "servers", ()):
            for bound in server.sockets:
                host, port, *_ = bound.getsockname()
                scheme = "https" if self.config.is_ssl else "http"
                log.info("serving", address=f"{scheme}://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._lifecycle.draining.set()
        await asyncio.sleep(self._delay)
        self._lifecycle.stopping.set()
        await super().shutdown(sockets)
