"""Bound the history that the store keeps: forget states older than the retention.

A task of the server. Clients that were cut off for less than that resume without listing again.
"""

import asyncio
from collections import deque

import structlog

import storage

RETENTION = 3600.0  # seconds of history kept
INTERVAL = 300.0  # seconds between compactions, as kube-apiserver's

log = structlog.get_logger()


async def compact(
    store: storage.Store, *, retention: float = RETENTION, interval: float = INTERVAL
) -> None:
    """Note the revision every interval; compact to the one noted a retention ago."""
    noted: deque[int] = deque(maxlen=max(1, round(retention / interval)))
    while True:
        await asyncio.sleep(interval)
        try:
            if len(noted) == noted.maxlen:
                await store.compact(noted[0])
            noted.append(await store.revision())
        except storage.StorageError as error:
            log.warning("history not compacted", error=str(error))
