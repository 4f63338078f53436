"""Follow a collection of the cluster: list it, watch it, and start over where that breaks off."""

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from apiserver.cluster.client import Cluster, Refused, Unreachable

PAGE = 500
PATIENCE = 10.0  # seconds: a kube-apiserver that restarts is no loss
FIRST, LONGEST = 0.2, 10.0  # seconds between attempts
WATCH_SECONDS = (300, 600)  # the cluster ends a watch after a time drawn from here

log = structlog.get_logger()

Json = Mapping[str, Any]


class Informer:
    """The objects of a collection by `namespace/name`, or by name; `changed` is called after each.

    `synced` once they have been listed. What was known stays known while the cluster is away;
    `failure` tells why it cannot be followed at the moment, and `lost` whether that lasts. One that
    is `optional` has no objects where the cluster does not serve it, until it does.
    """

    def __init__(
        self,
        cluster: Cluster,
        path: str,
        *,
        selector: str = "",
        optional: bool = False,
        changed: Callable[[], None] = lambda: None,
        rand: random.Random | None = None,
    ) -> None:
        self.objects: dict[str, Json] = {}
        self.synced = False
        self.failure = ""
        self._failing = 0.0  # since when, by the event loop's clock
        self._absent = False
        self._delay = FIRST
        self._cluster = cluster
        self._path = path
        self._query = {"fieldSelector": selector} if selector else {}
        self._optional = optional
        self._changed = changed
        self._rand = rand or random.Random()

    async def run(self) -> None:
        """For ever."""
        revision = ""
        while True:
            try:
                revision = revision or await self._list()
                revision = await self._watch(revision)
            except Refused as error:
                revision = "" if error.code in (404, 410) else revision
                absent = error.code == 404 and self._optional
                if absent and not (self.failure and self._absent):
                    log.info("the cluster does not serve it", path=self._path)
                self.synced = self.synced or absent
                self._failed(error, absent=absent)
            except Unreachable as error:
                self._failed(error)
            # After an end in order too: one that ends every watch must not be hammered.
            await asyncio.sleep(self._delay * self._rand.random())

    @property
    def lost(self) -> bool:
        since = asyncio.get_running_loop().time() - self._failing
        return bool(self.failure) and not self._absent and since > PATIENCE

    def _failed(self, error: Exception, *, absent: bool = False) -> None:
        """Where it is `absent`, nothing is to be followed."""
        first = not self.failure or self._absent
        self._absent = absent
        if first:
            self._failing = asyncio.get_running_loop().time()
        if first and not absent:
            log.warning(
                "cannot follow the cluster",
                path=self._path,
                error=str(error),
                reason="FailedWatch",
            )
        self.failure, self._delay = str(error), min(self._delay * 2, LONGEST)

    def _works(self) -> None:
        if self.failure:
            log.info("following the cluster again", path=self._path)
        self.failure, self._delay, self._absent = "", FIRST, False

    async def _list(self) -> str:
        found: dict[str, Json] = {}
        token, revision = "", ""
        while True:
            query = {"limit": str(PAGE), **self._query, **({"continue": token} if token else {})}
            page = await self._cluster.get(self._path, **query)
            for item in page.get("items") or ():
                found[_key(item)] = item
            meta = page.get("metadata") or {}
            token, revision = meta.get("continue") or "", str(meta.get("resourceVersion") or "")
            if not token:
                break
        self.objects, self.synced = found, True
        self._works()
        self._changed()
        return revision

    async def _watch(self, revision: str) -> str:
        """The revision to go on from; empty where a new list is needed."""
        query = {
            "resourceVersion": revision,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(self._rand.randint(*WATCH_SECONDS)),
            **self._query,
        }
        async with self._cluster.watch(self._path, **query) as events:
            self._works()
            async for event in events:
                kind, obj = event.get("type"), event.get("object")
                if kind == "ERROR" or not isinstance(obj, dict):
                    return ""
                revision = str((obj.get("metadata") or {}).get("resourceVersion") or revision)
                if kind == "BOOKMARK":
                    continue
                if kind == "DELETED":
                    self.objects.pop(_key(obj), None)
                else:
                    self.objects[_key(obj)] = obj
                self._changed()
        return revision


def _key(obj: Json) -> str:
    meta = obj.get("metadata") or {}
    namespace = meta.get("namespace")
    return f"{namespace}/{meta.get('name')}" if namespace else str(meta.get("name"))
