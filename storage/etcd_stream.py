"""A watch stream to one member of etcd: what it is told, or that there is other news.

What this process itself has committed is such news: it need not be waited for until etcd tells it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc.aio

AHEAD = 16  # responses that are read before they are taken


class Ended(Exception):
    """The member has ended the stream, or it is out of reach."""


class Moved(Ended):
    """It is to be opened again, with other credentials."""


class EtcdStream:
    """`call` is the open stream. It must be closed.

    A write to the key `marker` shows on it after all that was written before; `trusted` says
    whether the progress that its member tells can be believed. `closed` is told of its end.
    """

    def __init__(
        self,
        call: Any,
        *,
        marker: bytes,
        trusted: bool,
        closed: Callable[["EtcdStream"], None] | None = None,
    ) -> None:
        self.marker = marker
        self.trusted = trusted
        self._call = call
        self._closed = closed
        self._moved = False
        self._writing = asyncio.Lock()
        self._news = asyncio.Event()
        self._taken = asyncio.Event()
        self._responses: deque[Any] = deque()
        self._reader = asyncio.create_task(self._read(), name="etcd watch")

    async def write(self, request: Any) -> None:
        """Send a request. One that is lost in the end of the stream is no loss.

        A task of its own sends it: grpc.aio ends the call with a writer that is cancelled, and
        cancels a writer with the call.
        """
        await asyncio.wait([asyncio.create_task(self._write(request), name="etcd watch request")])

    def nudge(self) -> None:
        """There is other news."""
        self._news.set()

    def move(self) -> None:
        """Have it opened again, whatever has come and is not taken."""
        self._moved = True
        self._news.set()

    async def next(self) -> Any:
        """The next response; None where there is other news. `Ended`, `Moved`."""
        if not self._responses and not self._reader.done():
            await self._news.wait()
        if self._moved:
            raise Moved
        self._news.clear()
        if not self._responses:
            if self._reader.done():
                raise Ended
            return None
        self._taken.set()
        return self._responses.popleft()

    async def close(self) -> None:
        self._call.cancel()
        self._reader.cancel()
        if self._closed is not None:
            self._closed(self)
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _write(self, request: Any) -> None:
        async with self._writing:
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self._call.write(request)

    async def _read(self) -> None:
        """Keep few responses at hand: etcd is to notice who is slow."""
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                self._responses.append(response)
                self._news.set()
                while len(self._responses) >= AHEAD:
                    self._taken.clear()
                    await self._taken.wait()
        except grpc.aio.AioRpcError:
            pass
        finally:
            self._news.set()
