"""A watch stream, as it ends."""

import asyncio
from typing import Any

import grpc.aio
import pytest

from storage.etcd_stream import Ended, EtcdStream


class Call:
    """Stands for a call of grpc.aio that has something to read, and ends."""

    def __init__(self, *responses: object) -> None:
        self._responses = list(responses)
        self.writing = asyncio.Event()
        self.cancelled = False

    async def read(self) -> Any:
        return self._responses.pop(0) if self._responses else grpc.aio.EOF

    async def write(self, request: object) -> None:
        """Ends when the call does, as grpc.aio has it."""
        self.writing.set()
        while not self.cancelled:
            await asyncio.sleep(0.001)
        raise asyncio.CancelledError

    def cancel(self) -> None:
        self.cancelled = True


async def test_the_end_is_told_after_all_that_came_before_it() -> None:
    stream = EtcdStream(Call("a", "b"), marker=b"", trusted=True)
    await asyncio.sleep(0.01)  # all is read before anything is taken
    async with asyncio.timeout(5):
        assert [await stream.next(), await stream.next()] == ["a", "b"]
        with pytest.raises(Ended):
            await stream.next()
    await stream.close()


async def test_the_end_of_the_call_does_not_cancel_who_writes() -> None:
    call = Call()
    stream = EtcdStream(call, marker=b"", trusted=True)
    writing = asyncio.create_task(stream.write("request"))
    await call.writing.wait()
    await stream.close()
    await writing
    assert not writing.cancelled()


async def test_a_writer_that_gives_up_does_not_end_the_call() -> None:
    call = Call()
    stream = EtcdStream(call, marker=b"", trusted=True)
    writing = asyncio.create_task(stream.write("request"))
    await call.writing.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert not call.cancelled
    await stream.close()
