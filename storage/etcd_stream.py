"""A watch stream to one member of etcd: what it is told, or that there is other news.

What this process itself has committed is such news: it need not be waited for until etcd tells it.
"""

import asyncio
from typing import Any

import grpc.aio


class Ended(Exception):
    """The member has ended the stream, or it is out of reach."""


class EtcdStream:
    """`call` is the open stream. It must be closed.

    A write to the key `marker` shows on it after all that was written before; `trusted` says
    whether the progress that its member tells can be believed.
    """

    def __init__(self, call: Any, *, marker: bytes, trusted: bool) -> None:
        self.marker = marker
        self.trusted = trusted
        self._call = call
        self._writing = asyncio.Lock()
        self._news = asyncio.Event()
        self._reading: asyncio.Future[Any] | None = None

    async def write(self, request: Any) -> None:
        """Send a request. One that is lost in the end of the stream is no loss."""
        async with self._writing:
            try:
                await self._call.write(request)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return

    def nudge(self) -> None:
        """There is other news."""
        self._news.set()

    async def next(self) -> Any:
        """The next response; None where there is other news. `Ended`."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._call.read())
            self._reading.add_done_callback(lambda _: self._news.set())
        await self._news.wait()
        self._news.clear()
        if not self._reading.done():
            return None
        reading, self._reading = self._reading, None
        try:
            response = reading.result()
        except grpc.aio.AioRpcError as error:
            raise Ended from error
        if response is grpc.aio.EOF:
            raise Ended
        return response

    async def close(self) -> None:
        self._call.cancel()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
