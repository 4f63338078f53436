"""A cluster to ask about flows, a clock to set, and a `Flows` that keeps what it says."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

from enforcer.flows.recorder import Flows
from enforcer.nft.nflog import Seen
from policy import (
    Cluster,
    Isolation,
    Namespace,
    Operator,
    Peer,
    Pod,
    Policy,
    Port,
    Protocol,
    Requirement,
    Rule,
    Selector,
)

START = 1_800_000_000.0
FRONT = Selector((Requirement("role", Operator.IN, ("front",)),))
BACK = Selector((Requirement("role", Operator.IN, ("back",)),))
POL1 = Policy(
    "shop", "pol1", BACK, (Rule((Peer(pods=FRONT),), (Port(Protocol.TCP, 80, 80),)), Rule((), ()))
)
CLUSTER = Cluster(
    namespaces={
        "shop": Namespace("shop", isolation=Isolation.ON),
        "lab": Namespace("lab", isolation=Isolation.AUDIT),
        "open": Namespace("open"),
    },
    pods=(
        Pod("shop", "front", {"role": "front"}, ("10.66.0.11", "fd66::11")),
        Pod("shop", "back", {"role": "back"}, ("10.66.0.12", "fd66::12")),
        Pod("lab", "tool", {"role": "front"}, ("10.66.0.13", "fd66::13")),
        Pod("open", "any", {}, ("10.66.0.14",)),
    ),
    policies=(replace(POL1, rules=POL1.rules[:1]),),
)


@dataclass(slots=True)
class World:
    """A `View` of a cluster that a test may change; it counts what it is asked."""

    cluster: Cluster = CLUSTER
    asked: int = 0

    def owner(self, address: str) -> Pod | None:
        self.asked += 1
        return self.cluster.owner(address)

    def namespace(self, name: str) -> Namespace | None:
        self.asked += 1
        return self.cluster.namespaces.get(name)

    def policies(self, namespace: str) -> list[Policy]:
        self.asked += 1
        return [item for item in self.cluster.policies if item.namespace == namespace]

    def without(self, pod: str) -> None:
        kept = tuple(item for item in self.cluster.pods if item.name != pod)
        self.cluster = replace(self.cluster, pods=kept)

    def allow(self, *policies: Policy) -> None:
        self.cluster = replace(self.cluster, policies=policies)


@dataclass(slots=True)
class Clock:
    """Seconds since `START`."""

    passed: float = 0.0

    def wall(self) -> float:
        return START + self.passed

    def monotonic(self) -> float:
        return self.passed


@dataclass(slots=True)
class Story:
    """`Flows` over a world; `lines` is what it said since the last `said`."""

    world: World = field(default_factory=World)
    clock: Clock = field(default_factory=Clock)
    lines: list[bytes] = field(default_factory=list)

    def flows(self, **options: Any) -> Flows:
        return Flows(
            view=self.world,
            tell=self.lines.append,
            clock=self.clock.wall,
            monotonic=self.clock.monotonic,
            **options,
        )

    def said(self) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.lines]
        self.lines.clear()
        return found


def seen(
    source: str = "10.66.0.11",
    destination: str = "10.66.0.12",
    port: int | None = 81,
    *,
    protocol: str = "TCP",
    audit: bool = False,
    time: float | None = None,
) -> Seen:
    prefix = "netpol audit" if audit else "netpol denied"
    return Seen(prefix, source, destination, protocol, port, time)
