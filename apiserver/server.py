"""uvicorn with what it lacks: watches that end at shutdown, in order, and a word when it serves."""

import asyncio
import os
import socket
from types import FrameType
from typing import Any

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from apiserver.lifecycle import Lifecycle

KEEP_ALIVE = 75  # seconds; below the 90 s after which Go clients drop idle connections
DRAIN = 60  # seconds that requests in flight get at shutdown, as upstream

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
    """Lets the application drop a connection, which ASGI cannot: `scope["abort"]`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Joining(transport, self.loop))  # type: ignore[arg-type]

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["abort"] = self.transport.abort  # type: ignore[typeddict-unknown-key]


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
                log.info("serving", address=f"http://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._lifecycle.draining.set()
        await asyncio.sleep(self._delay)
        self._lifecycle.stopping.set()
        await super().shutdown(sockets)
