"""When a collection of the cluster counts as lost."""

import asyncio
from typing import Any

import pytest

from apiserver.cluster import informer
from apiserver.cluster.client import Refused, Unreachable
from apiserver.cluster.informer import Informer


class Cluster:
    """Answers every list with the same error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def get(self, path: str, **query: str) -> Any:
        raise self.error


async def test_what_is_not_served_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informer, "PATIENCE", 0.05)
    monkeypatch.setattr(informer, "LONGEST", 0.01)
    cluster = Cluster(Refused(404, "no"))
    followed = Informer(cluster, "/things", optional=True)  # type: ignore[arg-type]
    running = asyncio.create_task(followed.run())
    await asyncio.sleep(0.2)
    assert (followed.synced, followed.lost) == (True, False)
    cluster.error = Unreachable("away")
    async with asyncio.timeout(5):
        while not followed.lost:
            await asyncio.sleep(0.01)
    running.cancel()
