"""The processes of a run: the real server, and the floors that speak HTTP beside it."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TypeVar

from bench import connection, floor
from bench.connection import Connection
from tests.lab.processes import Daemon, Server, free_port

START = 20.0  # seconds a floor gets to answer
READY = 120.0  # seconds the server gets to fill its cache
LOOK = 0.01  # seconds between two looks whether it has

D = TypeVar("D", bound=Daemon)


class Ours(Server):
    """The real server; `pid` is that of its process while it runs."""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start_timed(self) -> float:
        """Start the process; the seconds until it says that it is ready."""
        begun = time.monotonic()
        await Daemon.start(self)
        while time.monotonic() < begun + READY and self.running:
            with contextlib.suppress(OSError, RuntimeError), Connection(self.url) as server:
                server.ask("GET", "/readyz")
                return time.monotonic() - begun
            await asyncio.sleep(LOOK)
        raise RuntimeError(f"no server:\n{self.log.read_text()[-3000:]}")


class Floor(Daemon):
    """`bench.floor` on a free port."""

    def __init__(self, kind: str, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        super().__init__("bench.floor", [kind, str(port), str(folder)], folder / f"{kind}.log")

    async def start(self) -> None:
        await super().start()
        async with asyncio.timeout(START):
            while not self._listens():
                if not self.running:
                    raise RuntimeError(f"no floor:\n{self.log.read_text()[-3000:]}")
                await asyncio.sleep(0.02)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(connection.address(self.url), 1).close()
            return True
        return False


@contextlib.asynccontextmanager
async def ours(folder: Path, *flags: str) -> AsyncIterator[Ours]:
    """The real server while it runs."""
    async with _running(Ours(folder, *flags)) as server:
        yield server


@contextlib.asynccontextmanager
async def pages(folder: Path, contents: Mapping[str, bytes]) -> AsyncIterator[str]:
    """The URL of a floor that answers each path with its bytes."""
    names = {path: f"page-{number}" for number, path in enumerate(contents)}
    for path, name in names.items():
        (folder / name).write_bytes(contents[path])
    (folder / floor.PAGES).write_text(json.dumps(names))
    async with _running(Floor("pages", folder)) as server:
        yield server.url


@contextlib.asynccontextmanager
async def fanout(folder: Path, line: bytes) -> AsyncIterator[str]:
    """The URL of a floor that sends a line to all its watchers for every event."""
    (folder / floor.EVENT).write_bytes(line)
    async with _running(Floor("fanout", folder)) as server:
        yield server.url


@contextlib.asynccontextmanager
async def _running(server: D) -> AsyncIterator[D]:
    try:
        await server.start()
        yield server
    finally:
        await server.stop()
