"""uvicorn with the two things it lacks: watches that end at shutdown, and a word when it serves."""

import asyncio
import socket

import structlog
import uvicorn

KEEP_ALIVE = 75  # seconds; below the 90 s after which Go clients drop idle connections
DRAIN = 10  # seconds that requests in flight get at shutdown

log = structlog.get_logger()


class Server(uvicorn.Server):
    """An open watch would keep uvicorn from ever shutting down, so `stopping` ends them first."""

    def __init__(self, config: uvicorn.Config, *, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in getattr(self, "servers", ()):
            for bound in server.sockets:
                host, port, *_ = bound.getsockname()
                log.info("serving", address=f"http://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping.set()
        await super().shutdown(sockets)
