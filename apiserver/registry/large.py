"""What large objects may take of a server: memory, up to a bound, and time beside the event loop.

What is decoded is up to forty times as large as what was sent, and can take seconds to look
through. The HTTP handlers and the writer ask here for anything above `SMALL`; what is below it is
done at once, and counts nowhere.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import ParamSpec, TypeVar

from apiserver.api import status

SMALL = 32 << 10  # bytes; 200 of them under way take 250 MiB at worst, and each some milliseconds
MOST = 8 << 20  # bytes of all others under way: 350 MiB at worst
NOTHING = contextlib.nullcontext()

P = ParamSpec("P")
T = TypeVar("T")


class Room:
    """The bytes of large objects that are under way."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._taken = 0

    def take(self, size: int) -> None:
        """429 where there is no room. What is taken must be given back."""
        if self._taken + size > self._most:
            raise status.too_many_requests()
        self._taken += size

    def give(self, size: int) -> None:
        self._taken -= size

    def taken(self, size: int) -> AbstractContextManager[None]:
        """The same for as long as it lasts; nothing for what is small."""
        return self._taken_for(size) if size > SMALL else NOTHING

    @contextlib.contextmanager
    def _taken_for(self, size: int) -> Iterator[None]:
        self.take(size)
        try:
            yield
        finally:
            self.give(size)


class Aside:
    """A thread for what would hold up the event loop; one thing at a time."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        found = self._thread.submit(work, *args, **options)
        return await asyncio.wrap_future(found)
