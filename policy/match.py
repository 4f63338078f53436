"""The elementary questions of a policy, asked by the verdict and by the enforcer's compiler.

Each is one sentence of the semantics. How they combine is for the callers, who are tested against
each other.
"""

from collections.abc import Mapping

from policy.types import Namespace, Peer, Pod, Policy, Port, Protocol

Resolved = tuple[Protocol, int | None, int | None]


def selects(policy: Policy, pod: Pod) -> bool:
    """Whether a policy applies to a pod: its own namespace's, and selected."""
    return (
        pod.live and pod.namespace == policy.namespace and policy.pod_selector.matches(pod.labels)
    )


def peer_matches(
    peer: Peer, policy_namespace: str, pod: Pod, namespaces: Mapping[str, Namespace]
) -> bool:
    """Whether a pod is such a peer. A namespace that is not known matches no selector."""
    if not pod.live:
        return False
    if peer.pods is not None:
        return pod.namespace == policy_namespace and peer.pods.matches(pod.labels)
    namespace = namespaces.get(pod.namespace)
    return (
        namespace is not None
        and peer.namespaces is not None
        and peer.namespaces.matches(namespace.labels)
    )


def resolve(port: Port, pod: Pod) -> tuple[Resolved, ...]:
    """What an entry of toPorts admits at a pod: (protocol, lowest, highest port).

    Both None: the whole protocol. A name that the pod's containers lack admits nothing.
    """
    if port.name is None:
        return ((port.protocol, port.low, port.high),)
    numbers = {
        declared.port
        for declared in pod.ports
        if declared.name == port.name and declared.protocol == port.protocol
    }
    return tuple((port.protocol, number, number) for number in sorted(numbers))


def port_matches(port: Port, pod: Pod, protocol: str, number: int | None) -> bool:
    """Whether an entry of toPorts admits a flow to a pod."""
    return any(
        wanted == protocol
        and (low is None or high is None or (number is not None and low <= number <= high))
        for wanted, low, high in resolve(port, pod)
    )
