"""Keeps creates out of namespaces that are missing or going, where the cluster has them.

k8s.io/apiserver `pkg/admission/plugin/namespace/lifecycle`: what the informer does not know yet is
looked up, and one that is going stays so. The cluster's own controller deletes again whatever was
created at the same moment as the namespace was marked.
"""

from collections.abc import Mapping
from typing import Any

from apiserver.api import builtin, status
from apiserver.api.resource import Resource
from apiserver.cluster.client import Cluster, Refused, Unreachable
from apiserver.cluster.informer import Informer
from apiserver.registry.gate import terminating
from policy.labels import domain_errors
from storage import Condition


class ClusterGate:
    """See `registry.gate.NamespaceGate`; `namespaces` follows those of the cluster."""

    def __init__(self, cluster: Cluster, namespaces: Informer) -> None:
        self._cluster = cluster
        self._namespaces = namespaces

    async def admit(
        self, resource: Resource, namespace: str, name: str, *, fresh: bool = False
    ) -> Condition | None:
        """404 or 403 where it may not be; 503 where the cluster cannot be asked."""
        if not resource.namespaced:
            return None
        found = await self.find(namespace, fresh=fresh)
        if found is None:
            raise status.not_found(builtin.NAMESPACES, namespace)
        if (found.get("metadata") or {}).get("deletionTimestamp"):
            raise terminating(resource, namespace, name)
        return None

    async def find(self, namespace: str, *, fresh: bool = False) -> Mapping[str, Any] | None:
        """The namespace, looked up where it is not known yet. 503 where that cannot be done."""
        if domain_errors(namespace):  # no name that a path could be made of
            return None
        found: Mapping[str, Any] | None = self._namespaces.objects.get(namespace)
        if found is not None and not fresh:
            return found
        try:
            return await self._cluster.get(f"/api/v1/namespaces/{namespace}")
        except Refused as error:
            if error.code == 404:
                return None
            raise _unknown(namespace, error) from error
        except Unreachable as error:
            raise _unknown(namespace, error) from error


def _unknown(namespace: str, error: Exception) -> status.StatusError:
    return status.unavailable(
        f"the cluster cannot be asked for the namespace {namespace!r} ({error}); try again"
    )
