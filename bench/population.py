"""A cluster as objects of the API, for the enforcer: its size is known, element by element.

Ten namespaces, isolated. A pod has ten of its namespace's labels `s0` to `s49`, so that each of
them stands for a fifth of its pods. A policy lets one of them reach one application, at a port that
is no other policy's; of each application of each namespace one pod is on the node.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from enforcer.model import NAMESPACES, PODS, POLICIES, Model
from enforcer.reflector import Replace
from policy import ISOLATION_ANNOTATION

NODE = "node-1"
ELSEWHERE = "node-2"
SPACES = 10
APPS = 10  # of a namespace; so a hundred pods are on the node
LABELS = 50  # of a namespace, each one the peers of some policies
WORN = 10  # of them by each pod

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Objects:
    """What the three lists would hold."""

    namespaces: list[Json] = field(default_factory=list)
    pods: list[Json] = field(default_factory=list)
    policies: list[Json] = field(default_factory=list)

    def tell(self, model: Model) -> None:
        for resource, items in (
            (NAMESPACES, self.namespaces),
            (PODS, self.pods),
            (POLICIES, self.policies),
        ):
            model.tell(resource, Replace(tuple(items), "1"))


def populated(pods: int, policies: int) -> Objects:
    """So many of each, spread evenly; a fifth of the pods of a namespace has each label."""
    spaces = [f"space-{number}" for number in range(SPACES)]
    return Objects(
        [namespace(name) for name in spaces],
        [_pod(number) for number in range(pods)],
        [_policy(number) for number in range(policies)],
    )


def namespace(name: str) -> Json:
    return {
        "kind": "Namespace",
        "apiVersion": "v1",
        "metadata": {"name": name, "annotations": {ISOLATION_ANNOTATION: "on"}},
    }


def pod(
    space: str, name: str, labels: dict[str, str], address: str, *, node: str = ELSEWHERE
) -> Json:
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": space, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    }


def policy(
    space: str, name: str, target: dict[str, str], peers: Iterable[dict[str, str]], port: int
) -> Json:
    """UDP and TCP to a port."""
    return {
        "kind": "NetworkPolicy",
        "apiVersion": "net.alpha.kubernetes.io/v1alpha1",
        "metadata": {"name": name, "namespace": space},
        "spec": {
            "podSelector": target,
            "allowIncoming": [
                {
                    "from": [{"pods": labels} for labels in peers],
                    "toPorts": [
                        {"port": port, "protocol": protocol} for protocol in ("TCP", "UDP")
                    ],
                }
            ],
        },
    }


def address(number: int, start: int = 0) -> str:
    """A pod's, by its number; those of 10.128.0.0/9 are enough for eight million."""
    number += start
    return f"10.{128 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def worn(number: int) -> dict[str, str]:
    """The labels by which a pod is a peer."""
    return {f"s{(number + 5 * step) % LABELS}": "yes" for step in range(WORN)}


def everything_worn() -> dict[str, str]:
    """All labels that make a peer in a namespace."""
    return {f"s{number}": "yes" for number in range(LABELS)}


def _pod(number: int) -> Json:
    space, turn = number % SPACES, number // SPACES
    labels = {"app": f"a{turn % APPS}", **worn(turn)}
    node = NODE if turn < APPS else ELSEWHERE
    return pod(f"space-{space}", f"pod-{number:05}", labels, address(number), node=node)


def _policy(number: int) -> Json:
    space, turn = number % SPACES, number // SPACES
    target = {"app": f"a{turn % APPS}"}
    peers = [{f"s{turn % LABELS}": "yes"}]
    return policy(f"space-{space}", f"policy-{number:04}", target, peers, 8_000 + turn)
