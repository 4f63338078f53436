"""The namespace controller of standalone mode: first namespaces, and orderly deletion.

Every server runs it as a task; several do the same work twice at the worst. A namespace that is
deleted is first marked as terminating, then emptied, then removed; one that an earlier run left
half way is finished at the next start.
"""

import asyncio
import contextlib
from collections.abc import Sequence

import structlog

import storage
from apiserver.api import builtin, status
from apiserver.cache.cacher import Cacher
from apiserver.registry.strategies import KEPT_NAMESPACES
from apiserver.registry.strategy import Strategy
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
            terminating = [
                item.key.removeprefix(builtin.NAMESPACES.prefix)
                for item in namespaces.under(builtin.NAMESPACES.prefix)
                if item.terminating
            ]
            left = [name for name in terminating if not await self._finish(name)]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY if left else None):
                    await changed.wait()

    async def _create_kept(self) -> None:
        for name in sorted(KEPT_NAMESPACES):
            with contextlib.suppress(status.StatusError):
                await self._writer.create(
                    Where(self._strategy, "", name), {"metadata": {"name": name}}
                )

    async def _finish(self, name: str) -> bool:
        """Empty and remove a namespace; whether it is gone."""
        try:
            for strategy in self._contents:
                if not await self._writer.clear(Where(strategy, name)):
                    return False
            await self._writer.update(Where(self._strategy, "", name), _let_go)
        except (status.StatusError, storage.StorageError) as error:
            log.warning("namespace not removed yet", namespace=name, error=str(error))
            return False
        log.info("namespace removed", namespace=name)
        return True


def _let_go(namespace: dict[str, object]) -> dict[str, object]:
    namespace["spec"] = {"finalizers": []}
    return namespace
