"""The namespace controller of standalone mode: first namespaces, and orderly deletion.

Every server runs it as a task; several do the same work twice at the worst. A namespace that is
deleted is first marked as terminating, then emptied, then removed; one that an earlier run left
half way is finished at the next start. Nothing can be created in it once it is marked, so what is
younger belongs to another namespace of that name, which a server that is late must leave alone.
"""

import asyncio
import contextlib
from collections.abc import Sequence

import structlog

import storage
from apiserver.api import builtin, status
from apiserver.cache.cacher import Cacher
from apiserver.cache.object import Object
from apiserver.registry.strategies import KEPT_NAMESPACES
from apiserver.registry.strategy import Json, Strategy
from apiserver.registry.writer import Where, Writer

RETRY = 2.0  # seconds until a namespace that could not be emptied is tried again

log = structlog.get_logger()


class NamespaceController:
    """Level-triggered: looks at every terminating namespace whenever a namespace has changed."""

    def __init__(
        self,
        *,
        writer: Writer,
        cacher: Cacher,
        strategies: Sequence[Strategy],
    ) -> None:
        self._writer = writer
        self._cacher = cacher
        self._contents = [s for s in strategies if s.resource.namespaced]
        (self._strategy,) = (s for s in strategies if s.resource is builtin.NAMESPACES)

    async def run(self) -> None:
        await self._cacher.until_ready()
        await self._create_kept()
        while True:
            changed = asyncio.Event()
            namespaces = self._cacher.objects(builtin.NAMESPACES)
            namespaces.on_change(changed.set)
            found = namespaces.under(builtin.NAMESPACES.prefix)
            left = [item for item in found if item.terminating and not await self._finish(item)]
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY if left else None):
                        await changed.wait()
            finally:
                namespaces.forget(changed.set)

    async def _create_kept(self) -> None:
        """See that the namespaces which always are, are there."""
        left = sorted(KEPT_NAMESPACES)
        while left:
            where = Where(self._strategy, "", left[-1])
            try:
                with contextlib.suppress(status.StatusError):
                    await self._writer.create(where, {"metadata": {"name": where.name}})
                left.pop()
            except storage.StorageError as error:
                log.warning("namespace not created yet", namespace=where.name, error=str(error))
                await asyncio.sleep(RETRY)

    async def _finish(self, item: Object) -> bool:
        """Empty and remove a namespace that is terminating; whether it is gone."""
        _, name = item.identity
        uid = item.parse()["metadata"].get("uid")
        where = Where(self._strategy, "", name)

        def let_go(namespace: Json) -> Json:
            if namespace["metadata"].get("uid") != uid:
                raise status.not_found(builtin.NAMESPACES, name)
            namespace["spec"] = {"finalizers": []}
            return namespace

        try:
            for strategy in self._contents:
                if not await self._writer.clear(Where(strategy, name), until=item.revision):
                    return False
            await self._writer.update(where, let_go)
        except (status.StatusError, storage.StorageError) as error:
            if isinstance(error, status.StatusError) and error.code == 404:
                return True  # another server was faster
            log.warning("namespace not removed yet", namespace=name, error=str(error))
            return False
        log.info("namespace removed", namespace=name)
        return True
