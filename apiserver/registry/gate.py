"""Keeps creates out of namespaces that are missing or going.

The writer asks it before every create, and makes the create conditional on the namespace that it
was shown: one that is marked as terminating meanwhile, by whichever server, voids the create. So
who empties a namespace after it was marked misses nothing.
"""

from typing import Protocol

import storage
from apiserver.api import builtin, status
from apiserver.api.resource import Resource
from apiserver.api.status import Cause
from apiserver.cache.cacher import Cacher
from apiserver.cache.object import Object
from storage import Condition


class Gate(Protocol):
    """What the writer asks before it creates."""

    async def admit(
        self, resource: Resource, namespace: str, name: str, *, fresh: bool = False
    ) -> Condition | None: ...


class NamespaceGate:
    """Looks a namespace up in the cache, and in the store where the cache is not enough."""

    def __init__(self, *, store: storage.Store, cacher: Cacher) -> None:
        self._store = store
        self._cacher = cacher

    async def admit(
        self, resource: Resource, namespace: str, name: str, *, fresh: bool = False
    ) -> Condition | None:
        """What must still hold when the object is created. 404 or 403 where it may not be.

        What the cache shows is taken for the truth only where it is in favour, and never if `fresh`
        is wanted.
        """
        if not resource.namespaced:
            return None
        key = builtin.NAMESPACES.prefix + namespace
        found = self._cached(key)
        if fresh or found is None or found.terminating:
            record, _ = await self._store.get(key)
            if record is None:
                raise status.not_found(builtin.NAMESPACES, namespace)
            try:
                found = Object.decode(builtin.NAMESPACES, record.key, record.value, record.revision)
            except ValueError as error:
                why = f"the stored namespace {namespace!r} cannot be decoded ({error}); replace it"
                raise status.internal(why) from error
        if found.terminating:
            raise terminating(resource, namespace, name)
        return Condition(key, found.revision)

    def _cached(self, key: str) -> Object | None:
        return self._cacher.objects(builtin.NAMESPACES).get(key) if self._cacher.ready else None


def terminating(resource: Resource, namespace: str, name: str) -> status.StatusError:
    """403 with the cause that controllers wait for."""
    why = f"unable to create new content in namespace {namespace} because it is being terminated"
    cause = Cause(
        "NamespaceTerminating", f"namespace {namespace} is being terminated", "metadata.namespace"
    )
    return status.forbidden(resource, name, why, [cause])
