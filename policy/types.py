"""The nouns of the network policy API, as frozen values.

Everything that speaks of policies (validation, the reference verdict, the enforcer's compiler)
speaks in these. They hold no behaviour beyond matching a selector and looking up a cluster, and
they are valid by construction: untrusted JSON becomes one of them only through `policy.parse`,
`policy.pod` and `policy.namespace`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Isolation(StrEnum):
    """What the annotation `net.alpha.kubernetes.io/network-isolation` of a namespace says."""

    OFF = "off"
    ON = "on"
    AUDIT = "audit"


class Protocol(StrEnum):
    """The protocols that a policy can name. ICMP stands for ICMPv6 too."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"
    ICMP = "ICMP"


class Operator(StrEnum):
    """The operators of a LabelSelector's matchExpressions."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """One condition on one label. `values` is sorted and empty for the two existence operators."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case Operator.IN:
                return value is not None and value in self.values
            case Operator.NOT_IN:
                return value is None or value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.DOES_NOT_EXIST:
                return value is None


@dataclass(frozen=True, slots=True, order=True)
class Selector:
    """An AND of requirements, sorted. The empty selector matches every set of labels."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.matches(labels) for requirement in self.requirements)


@dataclass(frozen=True, slots=True)
class Port:
    """What one entry of `toPorts` admits.

    `low` and `high` are an inclusive range (equal for one port); `name` is the name of a container
    port. All three None: the whole protocol. ICMP never has a port.
    """

    protocol: Protocol
    low: int | None = None
    high: int | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """One entry of `from`: exactly one of the two selectors is set.

    `pods` selects pods of the policy's own namespace; `namespaces` every pod of the namespaces
    that it selects.
    """

    pods: Selector | None = None
    namespaces: Selector | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Any of `peers` AND any of `ports`. No peers: any source. No ports: any traffic."""

    peers: tuple[Peer, ...] = ()
    ports: tuple[Port, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """A NetworkPolicy. `rules` are alternatives; without any, the policy allows nothing."""

    namespace: str
    name: str
    pod_selector: Selector = Selector()
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace with what a policy can see of it."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    isolation: Isolation = Isolation.OFF


@dataclass(frozen=True, slots=True)
class ContainerPort:
    """A named port that a pod declares."""

    name: str
    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod with what a policy can see of it.

    `ips` are canonical text (as `ipaddress` prints them), without duplicates. `started` is an
    RFC 3339 UTC time or empty; it orders two pods that claim one address.
    """

    namespace: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ips: tuple[str, ...] = ()
    node: str = ""
    host_network: bool = False
    finished: bool = False
    ports: tuple[ContainerPort, ...] = ()
    started: str = ""

    @property
    def live(self) -> bool:
        """Whether the pod can be a target or a peer (semantics: hostNetwork, Succeeded, Failed)."""
        return not self.host_network and not self.finished


@dataclass(frozen=True, slots=True)
class Cluster:
    """A whole state of the world, as the reference verdict reads it.

    `namespaces` is keyed by name; `nodes` maps a node's name to its own addresses.
    """

    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    pods: tuple[Pod, ...] = ()
    policies: tuple[Policy, ...] = ()
    nodes: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def isolation(self, namespace: str) -> Isolation:
        """The isolation of a namespace; one that is not known (yet) is isolated: fail closed."""
        known = self.namespaces.get(namespace)
        return known.isolation if known else Isolation.ON

    def owner(self, address: str) -> Pod | None:
        """The live pod that holds an address; of several that claim it, the newest start."""
        claims = [pod for pod in self.pods if pod.live and address in pod.ips]
        return max(claims, key=lambda p: (p.started, p.namespace, p.name), default=None)


@dataclass(frozen=True, slots=True)
class Flow:
    """A connection as its packets' conntrack tuple shows it: client, pod, pod's own port.

    `protocol` is one of `Protocol` or any other name in capitals (`GRE`); `port` is None where
    the protocol has none.
    """

    source: str
    destination: str
    protocol: str
    port: int | None = None
