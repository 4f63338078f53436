"""What the enforcer knows of the cluster: namespaces, pods and policies, by name.

The followers tell it what they hear; the compiler reads `cluster()`. Pure. Nothing can be compiled
before all three resources are complete. A policy that is wrong grants nothing and is reported.
"""

from collections.abc import Mapping
from typing import Any

import policy
from enforcer.reflector import Apply, Replace
from policy import Cluster, InvalidPolicy, Namespace, Pod, Policy

NAMESPACES = "/api/v1/namespaces"
PODS = "/api/v1/pods"
POLICIES = "/apis/net.alpha.kubernetes.io/v1alpha1/networkpolicys"
RESOURCES = (NAMESPACES, PODS, POLICIES)

Json = Mapping[str, Any]
Key = tuple[str, str]


class Model:
    """`changed` is set by every change that a ruleset could depend on; the caller clears it."""

    def __init__(self) -> None:
        self.changed = False
        self.invalid: dict[Key, InvalidPolicy] = {}
        self._synced: set[str] = set()
        self._namespaces: dict[Key, Namespace] = {}
        self._pods: dict[Key, Pod] = {}
        self._policies: dict[Key, Policy] = {}

    @property
    def synced(self) -> bool:
        """Whether all three resources have been listed."""
        return self._synced == set(RESOURCES)

    def tell(self, resource: str, output: Replace | Apply) -> list[InvalidPolicy]:
        """Take in what a follower heard; the policies that it was the first to find wrong."""
        before = dict(self.invalid)
        if isinstance(output, Apply):
            self._apply(resource, output.obj, deleted=output.deleted)
        else:
            present = {_key(item) for item in output.items}
            for key in [key for key in self._known(resource) if key not in present]:
                self._remove(resource, key)
            for item in output.items:
                self._apply(resource, item, deleted=False)
            if resource not in self._synced:
                self._synced.add(resource)
                self.changed = True
        return [error for key, error in self.invalid.items() if str(before.get(key)) != str(error)]

    def cluster(self) -> Cluster:
        """The state as values; only once everything is synced."""
        if not self.synced:
            raise RuntimeError("the model is not complete yet")
        return Cluster(
            namespaces={item.name: item for item in self._namespaces.values()},
            pods=tuple(self._pods.values()),
            policies=tuple(self._policies.values()),
        )

    def strangers(self, node: str) -> list[str]:
        """The nodes that pods are on, where none is on this one: its name may be wrong."""
        nodes = {pod.node for pod in self._pods.values() if pod.node}
        return sorted(nodes) if node and node not in nodes else []

    def _known(self, resource: str) -> list[Key]:
        return [*self._objects(resource), *(self.invalid if resource == POLICIES else ())]

    def _apply(self, resource: str, obj: Json, *, deleted: bool) -> None:
        key = _key(obj)
        if deleted:
            self._remove(resource, key)
        elif resource == NAMESPACES:
            self._put(self._namespaces, key, policy.namespace(obj))
        elif resource == PODS:
            self._put(self._pods, key, policy.pod(obj))
        else:
            try:
                parsed = policy.parse(obj)
            except InvalidPolicy as error:
                self._remove(resource, key)
                self.invalid[key] = error
            else:
                self.invalid.pop(key, None)
                self._put(self._policies, key, parsed)

    def _put(self, known: dict[Key, Any], key: Key, value: Any) -> None:
        if known.get(key) != value:
            known[key] = value
            self.changed = True

    def _remove(self, resource: str, key: Key) -> None:
        if resource == POLICIES:
            self.invalid.pop(key, None)
        if self._objects(resource).pop(key, None) is not None:
            self.changed = True

    def _objects(self, resource: str) -> dict[Key, Any]:
        if resource == NAMESPACES:
            return self._namespaces
        return self._pods if resource == PODS else self._policies


def _key(obj: Json) -> Key:
    metadata = obj.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    return str(metadata.get("namespace") or ""), str(metadata.get("name") or "")
