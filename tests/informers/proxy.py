"""A TCP proxy that a test can cut in the middle of a stream."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST, which drops what is under way


class Proxy:
    """Passes bytes on to a server. While `down`, connections are reset at once."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._target = (parts.hostname or "", parts.port or 0)
        self._open: set[asyncio.StreamWriter] = set()
        self._left: int | None = None
        self._was_cut = asyncio.Event()
        self.down = False
        self.url = ""

    def cut(self) -> None:
        """Reset all connections, wherever they are."""
        for writer in tuple(self._open):
            _reset(writer)

    async def cut_after(self, size: int) -> None:
        """Let that many more bytes of answers through, cut there, and return when it is done."""
        self._was_cut.clear()
        self._left = size
        async with asyncio.timeout(30):
            await self._was_cut.wait()

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
        self._open.add(writer)
        try:
            if not self.down:
                with suppress(OSError):
                    up_reader, up_writer = await asyncio.open_connection(*self._target)
                    self._open.add(up_writer)
                    try:
                        await asyncio.gather(
                            self._ask(reader, up_writer), self._answer(up_reader, writer)
                        )
                    finally:
                        self._open.discard(up_writer)
                        up_writer.transport.abort()
        finally:
            self._open.discard(writer)
            _reset(writer)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                last = self._left is not None and self._left <= len(data)
                if self._left is not None:
                    data = data[: self._left]
                    self._left -= len(data)
                writer.write(data)
                await writer.drain()
                if last:
                    self._left = None
                    self.cut()
                    self._was_cut.set()
        writer.transport.abort()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
