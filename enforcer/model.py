"""What the enforcer knows of the cluster: the followers tell it, the compiler is told the changes.

Objects become values here, and only values that differ go on. Nothing may be committed before all
three resources are complete. A policy that is wrong grants nothing and is reported. A pod whose
addresses the API does not know yet may be given them by a claim, from the plugin that starts it.
Pure.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import policy
from enforcer.compile import Compiler
from enforcer.index import Key
from enforcer.reflector import Apply, Replace
from policy import InvalidPolicy, Pod

NAMESPACES = "/api/v1/namespaces"
PODS = "/api/v1/pods"
POLICIES = "/apis/net.alpha.kubernetes.io/v1alpha1/networkpolicys"
RESOURCES = (NAMESPACES, PODS, POLICIES)
MIRRORED = "kubernetes.io/config.mirror"
PIECE = 200  # objects of a list: some 10 ms
CLAIMS = 4096  # pods that are being started on one node, at most

Json = Mapping[str, Any]
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Given:
    """The addresses that a pod's sandbox has been given, by interface.

    Without `uid`, it is of any pod of the name. `since` is RFC 3339: who gets an address latest has
    it.
    """

    uid: str
    sandbox: str
    since: str
    interfaces: Mapping[str, tuple[str, ...]]

    @property
    def ips(self) -> tuple[str, ...]:
        """Each once."""
        return tuple(dict.fromkeys(ip for ips in self.interfaces.values() for ip in ips))


class Model:
    """`revisions` are those of the last change heard of each resource.

    What is in the namespaces of `apart` is not the API's, and no list of it takes that away.
    """

    def __init__(self, compiler: Compiler, *, apart: frozenset[str] = frozenset()) -> None:
        self.compiler = compiler
        self._apart = apart
        self.invalid: dict[Key, InvalidPolicy] = {}
        self.revisions: dict[str, str] = {}
        self.protected = 0  # pods of the API that are in the table
        self._synced: set[str] = set()
        self._halfway: set[str] = set()
        self._pods: dict[Key, tuple[tuple[str, ...], Pod]] = {}  # by the API alone, with uids
        self._given: dict[Key, Given] = {}

    @property
    def synced(self) -> bool:
        """Whether all three resources have been listed."""
        return self._synced == set(RESOURCES)

    @property
    def policies(self) -> int:
        """How many of the API's are in force."""
        index = self.compiler.index
        return index.policy_count - sum(len(index.policies.get(name, ())) for name in self._apart)

    @property
    def halfway(self) -> bool:
        """Whether a list is being taken in: what the compiler knows is no state of the cluster."""
        return bool(self._halfway)

    def tell(self, resource: str, output: Replace | Apply) -> list[InvalidPolicy]:
        """Take in what a follower heard; the policies that it was the first to find wrong."""
        return [error for found in self.pieces(resource, output) for error in found]

    def pieces(
        self, resource: str, output: Replace | Apply
    ) -> Generator[list[InvalidPolicy], None, None]:
        """The same a piece at a time, so that others can do something in between."""
        found: list[InvalidPolicy] = []
        if isinstance(output, Apply):
            self._apply(resource, output.obj, found, deleted=output.deleted)
            self.revisions[resource] = _metadata(output.obj, "resourceVersion")
        else:
            self._halfway.add(resource)
            try:
                present = {_key(item) for item in output.items}
                for key in [key for key in self._known(resource) if key not in present]:
                    self._remove(resource, key)
                for number, item in enumerate(output.items, 1):
                    self._apply(resource, item, found, deleted=False)
                    if number % PIECE == 0:
                        yield found
                        found = []
                self._synced.add(resource)
                self.revisions[resource] = output.revision
            finally:
                self._halfway.discard(resource)
        yield found

    def give(self, key: Key, given: Given) -> None:
        """A sandbox has been given addresses. `ValueError` where too many pods are starting."""
        known = self._given.get(key)
        if known is None and len(self._given) >= CLAIMS:
            raise ValueError(f"{CLAIMS} pods are starting already")
        if known is not None and known.sandbox == given.sandbox:
            given = replace(given, interfaces={**known.interfaces, **given.interfaces})
        self._given[key] = given
        self._tell_pod(key)

    def take_back(self, key: Key, sandbox: str, interface: str) -> None:
        """An interface of a sandbox is gone. That of an older sandbox says nothing any more."""
        given = self._given.get(key)
        if given is not None and given.sandbox == sandbox:
            left = {name: ips for name, ips in given.interfaces.items() if name != interface}
            if left:
                self._given[key] = replace(given, interfaces=left)
            else:
                del self._given[key]
            self._tell_pod(key)

    def pod(self, key: Key, uid: str) -> Pod | None:
        """A pod as it counts, if the API knows it; with an empty uid, any of the name."""
        known = self._pods.get(key)
        if known is None or (uid and uid not in known[0]):
            return None
        return self.compiler.index.pods.get(key)

    def strangers(self, node: str) -> list[str]:
        """The nodes that pods are on, where none is on this one: its name may be wrong."""
        nodes = {pod.node for _, pod in self._pods.values() if pod.node}
        return sorted(nodes) if node and node not in nodes else []

    def _known(self, resource: str) -> list[Key]:
        index = self.compiler.index
        if resource == NAMESPACES:
            return [("", name) for name in index.namespaces if name not in self._apart]
        if resource == PODS:
            return list(self._pods)
        valid = (
            (space, name)
            for space, own in index.policies.items()
            if space not in self._apart
            for name in own
        )
        return [*valid, *self.invalid]

    def _apply(
        self, resource: str, obj: Json, found: list[InvalidPolicy], *, deleted: bool
    ) -> None:
        key = _key(obj)
        if deleted:
            self._remove(resource, key)
        elif resource == NAMESPACES:
            known = self.compiler.index.namespaces.get(key[1])
            _differs(known, policy.namespace(obj), lambda v: self.compiler.put_namespace(key[1], v))
        elif resource == PODS:
            made = _uids(obj), policy.pod(obj)
            if self._pods.get(key) != made:
                self._pods[key] = made
                self._tell_pod(key)
        else:
            self._policy(key, obj, found)

    def _policy(self, key: Key, obj: Json, found: list[InvalidPolicy]) -> None:
        known = self.compiler.index.policies.get(key[0], {}).get(key[1])
        try:
            parsed = policy.parse(obj)
        except InvalidPolicy as error:
            if str(self.invalid.get(key)) != str(error):
                found.append(error)
            self.invalid[key] = error
            if known is not None:
                self.compiler.put_policy(key, None)
        else:
            self.invalid.pop(key, None)
            _differs(known, parsed, lambda value: self.compiler.put_policy(key, value))

    def _remove(self, resource: str, key: Key) -> None:
        index = self.compiler.index
        if resource == NAMESPACES:
            if key[1] in index.namespaces:
                self.compiler.put_namespace(key[1], None)
        elif resource == PODS:
            if self._pods.pop(key, None) is not None:
                self._given.pop(key, None)
                self._tell_pod(key)
        else:
            self.invalid.pop(key, None)
            if key[1] in index.policies.get(key[0], {}):
                self.compiler.put_policy(key, None)

    def _tell_pod(self, key: Key) -> None:
        """A claim counts until the API knows the addresses, or the pod is another one."""
        uids, pod = self._pods.get(key, ((), None))
        given = self._given.get(key)
        if pod is not None and given is not None:
            other = given.uid and given.uid not in uids
            if other or pod.finished or set(pod.ips) == set(given.ips):
                del self._given[key]
            else:
                pod = replace(pod, ips=given.ips, started=given.since)
        known = self.compiler.index.pods.get(key)
        if known != pod:
            self.protected += self.compiler.protects(pod) - self.compiler.protects(known)
            self.compiler.put_pod(key, pod)


def _differs(known: V | None, made: V, put: Callable[[V], None]) -> None:
    if known != made:
        put(made)


def _key(obj: Json) -> Key:
    return _metadata(obj, "namespace"), _metadata(obj, "name")


def _uids(obj: Json) -> tuple[str, ...]:
    """What a pod may be known by: a static pod's own uid is in an annotation of its mirror."""
    metadata = obj.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    mirrored = annotations.get(MIRRORED) if isinstance(annotations, Mapping) else None
    return tuple(filter(None, (_metadata(obj, "uid"), str(mirrored or ""))))


def _metadata(obj: Json, field: str) -> str:
    metadata = obj.get("metadata")
    return str(metadata.get(field) or "") if isinstance(metadata, Mapping) else ""


def conflicts(compiler: Compiler) -> dict[str, list[str]]:
    """The addresses that several live pods claim, with the pods; who has it is first."""
    found = {}
    for address in sorted(compiler.index.disputed):
        owner = compiler.index.owner(address)
        others: Iterable[Pod] = compiler.index.claims(address)
        listed = sorted(others, key=lambda pod: (pod is not owner, pod.namespace, pod.name))
        found[address] = [f"{pod.namespace}/{pod.name}" for pod in listed]
    return found
