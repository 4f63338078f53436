"""The two steps in which a server ends; `apiserver.server` takes them, the application watches."""

import asyncio
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """First `draining`: not ready any more, but serving. Then `stopping`: every watch ends.

    `failed` where the server ends because it cannot go on.
    """

    draining: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    failed: asyncio.Event = field(default_factory=asyncio.Event)
