"""May this flow pass, and why? The reference evaluator: slow, plain, and what all else is held to.

It is the last formula of the semantics in code, and keeps its reasons, so that "why is my call
blocked?" has an answer. The enforcer's compiler and the kernel are tested against it; nothing on
a hot path calls it.
"""

from dataclasses import dataclass
from enum import StrEnum

from policy.match import peer_matches, port_matches, selects
from policy.types import Cluster, Flow, Isolation, Pod, Policy, Rule


class Reason(StrEnum):
    """What decided."""

    NO_POD = "the destination is no pod's address"
    NOT_ISOLATED = "the namespace is not isolated"
    ITSELF = "a pod may always reach itself"
    NODE = "the pod's own node may always reach it"
    ALLOWED = "a policy allows it"
    NOT_SELECTED = "no policy selects the pod"
    NO_RULE = "no rule of the policies that select the pod allows it"


class Miss(StrEnum):
    """Why a policy did not let a flow in, the nearest miss last."""

    NOT_SELECTED = "does not select the pod"
    NO_RULES = "allows nothing by itself"
    PEER_AND_PORT = "allows neither the source nor the port"
    PEER = "allows the port, but not the source"
    PORT = "allows the source, but not the port"


@dataclass(frozen=True, slots=True)
class Grant:
    """A rule that lets the flow in."""

    policy: str
    rule: int


@dataclass(frozen=True, slots=True)
class Missed:
    """A policy of the namespace that does not; `rule` is the one that came nearest, if any."""

    policy: str
    miss: Miss
    rule: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer with its reasons.

    `allowed` is what happens to the packet; `denied` is what an isolated namespace does with it.
    They differ only under audit, where nothing is dropped.
    """

    allowed: bool
    reason: Reason
    isolation: Isolation
    pod: str = ""
    grants: tuple[Grant, ...] = ()
    misses: tuple[Missed, ...] = ()

    @property
    def denied(self) -> bool:
        return self.reason in (Reason.NOT_SELECTED, Reason.NO_RULE)

    def explain(self) -> str:
        """The answer for a person, a line each for the policies that matter."""
        verb = "allowed" if self.allowed else "denied"
        if self.allowed and self.denied:
            verb = "allowed, because isolation is in audit; it would be denied"
        lines = [f"{verb}: {self.reason}"]
        if self.pod:
            lines.append(f"  the pod is {self.pod}; isolation of its namespace is {self.isolation}")
        lines += [f"  {grant.policy}, rule {grant.rule}, lets it in" for grant in self.grants]
        for missed in self.misses:
            near = "" if missed.rule is None else f" (nearest: rule {missed.rule})"
            lines.append(f"  {missed.policy} {missed.miss}{near}")
        return "\n".join(lines)


def verdict(cluster: Cluster, flow: Flow) -> Verdict:
    """What the semantics says of a flow in a state of the cluster."""
    pod = cluster.owner(flow.destination)
    if pod is None:
        return Verdict(True, Reason.NO_POD, Isolation.OFF)
    isolation = cluster.isolation(pod.namespace)
    name = f"{pod.namespace}/{pod.name}"
    if isolation is Isolation.OFF:
        return Verdict(True, Reason.NOT_ISOLATED, isolation, name)
    if flow.source in pod.ips and cluster.owner(flow.source) == pod:
        return Verdict(True, Reason.ITSELF, isolation, name)
    if flow.source in cluster.nodes.get(pod.node, ()):
        return Verdict(True, Reason.NODE, isolation, name)
    own = [policy for policy in cluster.policies if policy.namespace == pod.namespace]
    grants, misses = [], []
    for policy in sorted(own, key=lambda item: item.name):
        granted, missed = _judge(cluster, policy, pod, flow)
        grants += granted
        misses += missed
    if grants:
        return Verdict(True, Reason.ALLOWED, isolation, name, tuple(grants), tuple(misses))
    selected = any(missed.miss is not Miss.NOT_SELECTED for missed in misses)
    reason = Reason.NO_RULE if selected else Reason.NOT_SELECTED
    allowed = isolation is Isolation.AUDIT
    return Verdict(allowed, reason, isolation, name, (), tuple(misses))


def _judge(
    cluster: Cluster, policy: Policy, pod: Pod, flow: Flow
) -> tuple[list[Grant], list[Missed]]:
    """The rules of a policy that let the flow in; else the nearest miss."""
    name = f"{policy.namespace}/{policy.name}"
    if not selects(policy, pod):
        return [], [Missed(name, Miss.NOT_SELECTED)]
    grants = []
    nearest = Missed(name, Miss.NO_RULES)
    order = list(Miss)
    for index, rule in enumerate(policy.rules):
        peer = _from_matches(cluster, policy, rule, flow)
        port = not rule.ports or any(
            port_matches(item, pod, flow.protocol, flow.port) for item in rule.ports
        )
        if peer and port:
            grants.append(Grant(name, index))
            continue
        miss = Miss.PORT if peer else Miss.PEER if port else Miss.PEER_AND_PORT
        if order.index(miss) > order.index(nearest.miss):
            nearest = Missed(name, miss, index)
    return grants, [] if grants else [nearest]


def _from_matches(cluster: Cluster, policy: Policy, rule: Rule, flow: Flow) -> bool:
    if not rule.peers:
        return True
    source = cluster.owner(flow.source)
    return source is not None and any(
        peer_matches(peer, policy.namespace, source, cluster.namespaces) for peer in rule.peers
    )
