"""A small HTTP/1.1 client that says exactly how far a request got when a connection fails.

httpx costs more a request than the server does. One connection at a time, kept alive; after a
failure the next of the servers is tried. It knows no resource and retries nothing.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.faults.dial import dial

CONNECT = 2.0  # seconds until a server counts as unreachable
LIMIT = 1 << 22  # bytes of a head or a watch line
BROKEN = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError)


class NotSent(Exception):
    """No server took the connection: nothing has been asked."""


class Broken(Exception):
    """The connection failed, or time ran out, after something was sent: anything is possible."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server listens; `netns` is the network namespace whose loopback that is."""

    url: str
    netns: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes


class Client:
    """Speaks to one of the servers at a time, beginning with number `first`."""

    def __init__(self, servers: Sequence[Server], *, first: int = 0, timeout: float = 5.0) -> None:
        self._servers = servers
        self._at = first % len(servers)
        self._timeout = timeout
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str, body: bytes = b"") -> Answer:
        """One exchange. `NotSent`, `Broken`; then the connection is closed."""
        reader, writer = await self._connected()
        try:
            async with asyncio.timeout(self._timeout):
                writer.write(self._head(method, path, len(body)) + body)
                status, fields = await _head(reader)
                answer = Answer(status, await reader.readexactly(_length(fields)))
        except BROKEN as error:
            self.leave()
            raise Broken(f"{method} {path}: {error!r}") from error
        except asyncio.CancelledError:
            self.leave()
            raise
        if b"connection: close" in fields:
            self.close()
        return answer

    async def lines(self, path: str) -> AsyncGenerator[bytes, None]:
        """The lines of a stream until the server ends it in order.

        The first item is the status; where that is not 200, the second is the body. `NotSent`,
        `Broken`, also when nothing comes for the timeout.
        """
        reader, writer = await self._connected()
        try:
            async with asyncio.timeout(self._timeout):
                writer.write(self._head("GET", path, 0))
                status, fields = await _head(reader)
            yield str(status).encode()
            if b"transfer-encoding: chunked" not in fields:
                yield await reader.readexactly(_length(fields))
                return
            rest = b""
            while True:
                async with asyncio.timeout(self._timeout):
                    size = int(await reader.readuntil(b"\r\n"), 16)
                    chunk = (await reader.readexactly(size + 2))[:-2]
                if not size:
                    assert not rest, f"the stream ended in order, in a line: {rest!r}"
                    return
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line
        except BROKEN as error:
            self.leave()
            raise Broken(f"GET {path}: {error!r}") from error
        finally:
            self.close()

    def leave(self) -> None:
        """Close the connection and go to the next server."""
        self.close()
        self._at = (self._at + 1) % len(self._servers)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        # A server that has gone since the last answer was not asked anything.
        if self._streams is not None and self._streams[0].at_eof():
            self.close()
        if self._streams is None:
            server = self._servers[self._at]
            parts = urlsplit(server.url)
            try:
                async with asyncio.timeout(CONNECT):
                    sock = await dial((parts.hostname or "", parts.port or 0), server.netns)
                    self._streams = await asyncio.open_connection(sock=sock, limit=LIMIT)
            except BROKEN as error:
                self.leave()
                raise NotSent(f"{server.url}: {error!r}") from error
        return self._streams

    def _head(self, method: str, path: str, length: int) -> bytes:
        return (
            f"{method} {path} HTTP/1.1\r\nhost: {self._servers[self._at].url[7:]}\r\n"
            f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        ).encode()


async def _head(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The status and the fields, in small letters."""
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head[9:12]), head.lower()


def _length(fields: bytes) -> int:
    _, _, rest = fields.partition(b"content-length: ")
    return int(rest.partition(b"\r\n")[0])
