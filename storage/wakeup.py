"""A wake-up for everyone who waits for news; it remembers nothing for who comes later."""

import asyncio


class Wakeup:
    """Look at the state first, and await nothing between that and `wait`."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    async def wait(self) -> None:
        await self._event.wait()

    def wake(self) -> None:
        """Wake all that wait now."""
        self._event.set()
        self._event = asyncio.Event()
