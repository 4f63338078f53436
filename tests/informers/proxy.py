"""A TCP proxy that a test can cut in the middle of a stream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class Proxy:
    """Passes bytes on to a server. While `down`, connections are refused."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._target = (parts.hostname or "", parts.port or 0)
        self._open: set[asyncio.StreamWriter] = set()
        self.down = False
        self.url = ""

    def cut(self) -> int:
        """Reset all connections, wherever they are; how many there were."""
        count = len(self._open)
        for writer in tuple(self._open):
            writer.transport.abort()
        return count

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Proxy"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.down:
            writer.transport.abort()
            return
        self._open.add(writer)
        with suppress(OSError):
            up_reader, up_writer = await asyncio.open_connection(*self._target)
            self._open.add(up_writer)
            await asyncio.gather(_pass(reader, up_writer), _pass(up_reader, writer))
            self._open.discard(up_writer)
        self._open.discard(writer)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
