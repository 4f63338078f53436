"""Keeps creates out of namespaces that are missing or going.

The writer passes every create through it; the namespace controller waits on it. It relies on one
server owning the namespaces, which standalone mode is.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import orjson

import storage
from apiserver.api import builtin, status
from apiserver.api.resource import Resource
from apiserver.api.status import Cause


class NamespaceGate:
    """Counts the creates under way in each namespace."""

    def __init__(self, *, store: storage.Store) -> None:
        self._store = store
        self._creating: Counter[str] = Counter()
        self._quiet = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def creating(self, resource: Resource, namespace: str, name: str) -> AsyncIterator[None]:
        """Hold the namespace open while an object is created in it. 404 or 403 if it is not.

        The count goes up before the namespace is read, so `quiet`, which is awaited after the
        namespace was marked, sees every create that could still have met it alive.
        """
        if not resource.namespaced:
            yield
            return
        self._creating[namespace] += 1
        try:
            await self._demand(resource, namespace, name)
            yield
        finally:
            self._creating[namespace] -= 1
            if not self._creating[namespace]:
                del self._creating[namespace]
                async with self._quiet:
                    self._quiet.notify_all()

    async def quiet(self, namespace: str) -> None:
        """Wait until no create is under way in the namespace."""
        async with self._quiet:
            await self._quiet.wait_for(lambda: not self._creating[namespace])

    async def _demand(self, resource: Resource, namespace: str, name: str) -> None:
        record, _ = await self._store.get(builtin.NAMESPACES.prefix + namespace)
        if record is None:
            raise status.not_found(builtin.NAMESPACES, namespace)
        if orjson.loads(record.value)["metadata"].get("deletionTimestamp"):
            raise status.forbidden(
                resource,
                name,
                f"unable to create new content in namespace {namespace}"
                " because it is being terminated",
                [
                    Cause(
                        "NamespaceTerminating",
                        f"namespace {namespace} is being terminated",
                        "metadata.namespace",
                    )
                ],
            )
