"""Why a flow is not let in, as `policy.verdict` says it of the two pods concerned.

The state that it is asked about holds the two pods, their namespaces and the policies that select
the destination, so an answer costs the same in a cluster of any size. Pure.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypedDict

from policy import Cluster, Flow, Miss, Namespace, Pod, Policy, Reason, Verdict, selects, verdict

ALLOWED_BY_NOW = "allowed by now"
CHANGED = "one of the pods is gone, or its address is another pod's by now"
_ORDER = list(Miss)  # the nearest miss last


class View(Protocol):
    """What is asked of the cluster; each is one look-up."""

    def owner(self, address: str) -> Pod | None:
        """The live pod that holds an address, as `Cluster.owner` decides it."""

    def namespace(self, name: str) -> Namespace | None: ...

    def policies(self, namespace: str) -> Iterable[Policy]:
        """The valid policies of a namespace."""


class NearestMiss(TypedDict):
    """The policy, as namespace/name, that came nearest to letting a flow in.

    `rule` counts `allowIncoming` from 0; None where the policy has no rules.
    """

    policy: str
    rule: int | None
    miss: str


class Why(NamedTuple):
    """`reason` is a sentence; it starts with `ALLOWED_BY_NOW` where policies have changed."""

    reason: str
    nearest: NearestMiss | None = None


def why(view: View, flow: Flow, policies: Callable[[Pod], Sequence[Policy]]) -> Why:
    """The reason by the present policies; `policies` gives those that are applicable to a pod."""
    destination, source = view.owner(flow.destination), view.owner(flow.source)
    if destination is None:
        return Why(str(Reason.NO_POD))
    pods = [destination]
    if source is not None and source != destination:
        pods.append(source)
    namespaces = {pod.namespace: view.namespace(pod.namespace) for pod in pods}
    cluster = Cluster(
        namespaces={name: found for name, found in namespaces.items() if found is not None},
        pods=tuple(pods),
        policies=tuple(policies(destination)),
    )
    answer = verdict(cluster, flow)
    if not answer.denied:
        return Why(f"{ALLOWED_BY_NOW}: {answer.reason}")
    return Why(str(answer.reason), _nearest(answer))


def applicable(view: View, pod: Pod) -> tuple[Policy, ...]:
    """The policies that apply to a pod. The others cannot change its verdict."""
    return tuple(item for item in view.policies(pod.namespace) if selects(item, pod))


def _nearest(answer: Verdict) -> NearestMiss | None:
    missed = max(answer.misses, key=lambda item: _ORDER.index(item.miss), default=None)
    if missed is None or missed.miss is Miss.NOT_SELECTED:
        return None
    return NearestMiss(policy=missed.policy, rule=missed.rule, miss=str(missed.miss))
