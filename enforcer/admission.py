"""What a pod lets in, as a value: the union of all rules that select it. Pure.

Two pods with equal admissions share a class, whatever their policies are called.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from policy import Peer, Pod, Policy, Protocol, resolve

EXPANDED = 64  # ports of a range that become single elements; a wider one becomes an interval

# The namespace of the policy counts only for a peer that selects pods.
Source = tuple[str, Peer]
Sources = frozenset[Source] | None  # None: any source
NOBODY: frozenset[Source] = frozenset()


@dataclass(frozen=True, slots=True)
class Admission:
    """Sources by what they may reach: anything, a protocol, a port, an inclusive range."""

    anything: Sources
    protocols: Mapping[Protocol, Sources]
    ports: Mapping[tuple[Protocol, int], Sources]
    ranges: Mapping[tuple[Protocol, int, int], Sources]

    @property
    def everything(self) -> bool:
        return self.anything is None


def admission(pod: Pod, policies: Iterable[Policy]) -> Admission:
    """That of a pod under the policies that select it."""
    anything: Sources = NOBODY
    protocols: dict[Protocol, Sources] = {}
    ports: dict[tuple[Protocol, int], Sources] = {}
    ranges: dict[tuple[Protocol, int, int], Sources] = {}
    for policy in policies:
        for rule in policy.rules:
            sources = _sources(policy, rule.peers)
            if not rule.ports:
                anything = union(anything, sources)
            for entry in rule.ports:
                for protocol, low, high in resolve(entry, pod):
                    if low is None or high is None:
                        protocols[protocol] = union(protocols.get(protocol, NOBODY), sources)
                    elif high - low < EXPANDED:
                        for number in range(low, high + 1):
                            key = protocol, number
                            ports[key] = union(ports.get(key, NOBODY), sources)
                    else:
                        wide = protocol, low, high
                        ranges[wide] = union(ranges.get(wide, NOBODY), sources)
    return Admission(anything, protocols, ports, ranges)


def segments(
    ranges: Mapping[tuple[Protocol, int, int], Sources],
) -> list[tuple[Protocol, int, int, Sources]]:
    """Ranges that overlap, cut into pieces that do not; each with all its sources."""
    found = []
    for protocol in Protocol:
        own = [(low, high, s) for (p, low, high), s in ranges.items() if p is protocol]
        cuts = sorted({low for low, _, _ in own} | {high + 1 for _, high, _ in own})
        for low, after in itertools.pairwise(cuts):
            sources: Sources = NOBODY
            for first, last, more in own:
                if first <= low <= last:
                    sources = union(sources, more)
            if sources is None or sources:
                found.append((protocol, low, after - 1, sources))
    return found


def union(one: Sources, other: Sources) -> Sources:
    return None if one is None or other is None else one | other


def _sources(policy: Policy, peers: Iterable[Peer]) -> Sources:
    listed = tuple(peers)
    if not listed:
        return None
    return frozenset((policy.namespace if peer.pods is not None else "", peer) for peer in listed)
