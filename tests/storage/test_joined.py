"""One read for all who ask at the same time."""

import asyncio

import pytest

from storage.joined import Joined


class Source:
    """Counts its reads; each waits until it is let go, and tells what was `now` when it began."""

    def __init__(self) -> None:
        self.now = 0
        self.reads = 0
        self.let_go = asyncio.Event()

    async def read(self) -> int:
        self.reads += 1
        seen = self.now
        await self.let_go.wait()
        return seen


async def test_those_who_wait_share_a_read_that_began_after_they_came() -> None:
    source = Source()
    joined = Joined(source.read, name="test")
    first = asyncio.create_task(joined())
    await asyncio.sleep(0.01)
    source.now = 1  # written after the first read began: it may not serve those who come now
    later = [asyncio.create_task(joined()) for _ in range(5)]
    await asyncio.sleep(0.01)
    assert source.reads == 1
    source.let_go.set()
    assert await first == 0
    assert await asyncio.gather(*later) == [1] * 5
    assert source.reads == 2


async def test_a_caller_that_gives_up_takes_the_read_from_nobody() -> None:
    source = Source()
    joined = Joined(source.read, name="test")
    callers = [asyncio.create_task(joined()) for _ in range(2)]
    await asyncio.sleep(0.01)
    callers[0].cancel()
    await asyncio.sleep(0)
    source.let_go.set()
    assert await callers[1] == 0
    assert callers[0].cancelled()


async def test_a_failure_is_told_to_all_and_forgotten() -> None:
    failures = iter((OSError("down"), None))

    async def read() -> int:
        if (error := next(failures)) is not None:
            raise error
        return 7

    joined = Joined(read, name="test")
    outcomes = await asyncio.gather(joined(), joined(), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["down", "down"]
    assert await joined() == 7
    with pytest.raises(StopIteration):
        next(failures)
