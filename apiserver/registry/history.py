"""Bound the history that the store keeps: forget states older than the retention.

Every server runs it as a task; whoever wins a compare-and-swap does a round, so any number of them
compact once an interval (k8s.io/apiserver `pkg/storage/etcd3/compact.go`). No clock but the sleep
decides, so one that jumps forgets nothing, and a restart only lengthens the history.
"""

import asyncio
import math

import orjson
import structlog

import storage
from storage import Record

KEY = "/networkpolicys.history"  # beside the resources: the revisions noted at the last rounds

log = structlog.get_logger()


async def compact(store: storage.Store, *, retention: float, interval: float) -> None:
    """Note the revision every interval; compact to the one noted a retention ago. In seconds."""
    rounds = math.ceil(retention / interval)
    seen: Record | None = None
    known = False
    while True:
        try:
            if known:
                seen = await _round(store, seen, rounds)
            else:
                seen, known = (await store.get(KEY))[0], True
        except storage.StorageError as error:
            log.warning("history not compacted", error=str(error))
        await asyncio.sleep(interval)


async def _round(store: storage.Store, seen: Record | None, rounds: int) -> Record | None:
    """Take the round, unless another server has since `seen`; what stands now."""
    noted = [*(_parse(seen.value) if seen else ()), await store.revision()]
    value = orjson.dumps(noted[-rounds:] if rounds else [])
    try:
        if seen is None:
            revision = await store.create(KEY, value)
        else:
            revision = await store.update(KEY, value, expected=seen.revision)
    except (storage.KeyExists, storage.Conflict) as error:
        return error.current
    if len(noted) > rounds:
        await store.compact(noted[-rounds - 1])
        log.debug("history compacted", revision=noted[-rounds - 1])
    return Record(KEY, value, revision, seen.created if seen else revision)


def _parse(value: bytes) -> list[int]:
    try:
        noted = orjson.loads(value)
    except ValueError:
        return []
    return (
        [number for number in noted if isinstance(number, int)] if isinstance(noted, list) else []
    )
