"""Serve an application in the enforcer's own loop, so that it stops answering when the loop does.

The port may be in reach of every pod, and what they do with it must cost the enforcer neither its
file descriptors nor the kubelet's probes.
"""

import asyncio
import contextlib
import socket
from collections.abc import Generator
from ipaddress import ip_address

import structlog
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from enforcer.telemetry.endpoint import Endpoint, same_host

HEAD_BYTES = 16 << 10  # of the head of a request
PATIENCE = 15  # seconds that it may take, and that a connection may wait for the next one
CONNECTIONS = 100  # at once: a kubelet, some Prometheus and people need a handful
BACKLOG = 64
END = 1  # seconds that answers under way get when the enforcer ends

log = structlog.get_logger()


def bind(endpoint: Endpoint) -> socket.socket:
    """A socket that listens, so that a port that is taken is known before anything is programmed.

    `OSError` whose text names the flag.
    """
    six = ":" in endpoint.host
    family = socket.AF_INET6 if six else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if six:
            # `[::]` means every address, as in Go.
            only = not ip_address(endpoint.host).is_unspecified
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        sock.bind((endpoint.host, endpoint.port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise OSError(f"--metrics-bind-address {endpoint}: {error.strerror}") from error
    return sock


async def serve(application: Starlette, sock: socket.socket, *, patience: int = PATIENCE) -> None:
    """Until cancelled; then the socket is closed and answers under way are given.

    `patience` is in seconds.
    """
    config = uvicorn.Config(
        application,
        http=_Protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",  # whoever sends nonsense writes no log
        access_log=False,
        proxy_headers=False,  # else a client could name itself
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_keep_alive=patience,
        timeout_graceful_shutdown=END,
    )
    host, port, *_ = sock.getsockname()
    log.info("serving", address=f"http://{Endpoint(host, port)}")
    await _Server(config).serve(sockets=[sock])


class _Server(uvicorn.Server):
    """Leaves signals to the enforcer, ends by cancellation, and wakes for nothing but requests."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def main_loop(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            # There is no other way out of here than being cancelled.
            await self.shutdown()


class _Protocol(H11Protocol):
    """Drops who is slow with a request, and of a crowd the strangers first and the oldest."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._slow: asyncio.TimerHandle | None = None
        self._expect()
        here = (
            self.client is not None
            and self.server is not None
            and same_host(self.client[0], self.server[0])
        )
        self.rank = here, self.loop.time()
        if len(self.connections) > CONNECTIONS:
            ours = [known for known in self.connections if isinstance(known, _Protocol)]
            victim = min(ours, key=lambda known: known.rank)
            self.connections.discard(victim)
            victim.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._came()
        else:
            self._expect()

    def _expect(self) -> None:
        if self._slow is None:
            self._slow = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)

    def _came(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None
