"""From a state of the cluster to the ruleset of one node.

Pods that admit the same traffic share a class: a chain that looks the port up and jumps to a set
of peers. Peer sets are named by the union of selectors that they stand for, so classes share them,
and a pod that comes or goes is one element. The result is tested against `policy.verdict`, whose
algorithm it does not share.
"""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from enforcer import skeleton
from enforcer.ruleset import Chain, NftMap, NftSet, Ruleset
from policy import (
    Cluster,
    Isolation,
    Namespace,
    Peer,
    Pod,
    Policy,
    Protocol,
    peer_matches,
    resolve,
    selects,
)

EXPANDED = 64  # ports of a range that become single elements; a wider one becomes an interval
HIGHEST = 65_535
L4 = {
    Protocol.TCP: "tcp",
    Protocol.UDP: "udp",
    Protocol.SCTP: "sctp",
    Protocol.ICMP: "{ icmp, ipv6-icmp }",
}

# The namespace of the policy counts only for a peer that selects pods.
Source = tuple[str, Peer]
Sources = frozenset[Source] | None  # None: any source


@dataclass(frozen=True, slots=True)
class Admission:
    """What a pod lets in: sources by (protocol, lowest, highest port), and for any traffic."""

    anything: Sources
    protocols: Mapping[Protocol, Sources]
    ports: Mapping[tuple[Protocol, int], Sources]
    ranges: Mapping[tuple[Protocol, int, int], Sources]

    @property
    def everything(self) -> bool:
        return self.anything is None


@dataclass(slots=True)
class _Build:
    """The ruleset in the making, and the peer sets that it needs."""

    cluster: Cluster
    owners: Mapping[str, Pod]
    sets: dict[str, NftSet] = field(default_factory=dict)
    maps: dict[str, NftMap] = field(default_factory=dict)
    chains: dict[str, Chain] = field(default_factory=dict)
    peers: dict[frozenset[Source], str] = field(default_factory=dict)


def compile_ruleset(cluster: Cluster, *, node: str = "", pod_cidrs: Iterable[str] = ()) -> Ruleset:
    """The table of a node; without a name for it, every pod counts as local."""
    build = _Build(cluster, _owners(cluster.pods))
    build.chains.update(skeleton.chains())
    build.sets.update(skeleton.sets(pod_cidrs))
    policies: dict[str, list[Policy]] = defaultdict(list)
    for item in cluster.policies:
        policies[item.namespace].append(item)
    pods: dict[int, dict[str, str]] = {4: {}, 6: {}}
    isolated: dict[int, set[str]] = {4: set(), 6: set()}
    itself: dict[int, set[str]] = {4: set(), 6: set()}
    for address, pod in build.owners.items():
        if node and pod.node != node:
            continue
        version = ip_address(address).version
        target = _target(build, pod, policies[pod.namespace])
        pods[version][address] = target
        if target != "accept":
            for other in pod.ips:
                if ip_address(other).version == version and build.owners.get(other) is pod:
                    itself[version].add(f"{other} . {address}")
            if cluster.isolation(pod.namespace) is Isolation.ON:
                isolated[version].add(address)
    for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        build.maps[f"pods{version}"] = NftMap(kind, elements=pods[version])
        build.sets[f"iso{version}"] = NftSet(kind, elements=frozenset(isolated[version]))
        build.sets[f"self{version}"] = NftSet(
            f"{kind} . {kind}", elements=frozenset(itself[version])
        )
    return Ruleset(build.sets, build.maps, build.chains)


def _owners(pods: Iterable[Pod]) -> dict[str, Pod]:
    """The pod that holds each address; of several that claim it, the newest start."""
    owners: dict[str, Pod] = {}
    for pod in sorted(pods, key=lambda item: (item.started, item.namespace, item.name)):
        if pod.live:
            owners.update(dict.fromkeys(pod.ips, pod))
    return owners


def _target(build: _Build, pod: Pod, policies: Iterable[Policy]) -> str:
    """The verdict of a local pod's address."""
    isolation = build.cluster.isolation(pod.namespace)
    if isolation is Isolation.OFF:
        return "accept"
    admission = _admission(pod, policies)
    if admission.everything:
        return "accept"
    return f"jump {_class(build, admission, audit=isolation is Isolation.AUDIT)}"


def _admission(pod: Pod, policies: Iterable[Policy]) -> Admission:
    anything: Sources = frozenset()
    protocols: dict[Protocol, Sources] = {}
    ports: dict[tuple[Protocol, int], Sources] = {}
    ranges: dict[tuple[Protocol, int, int], Sources] = {}
    for policy in policies:
        if not selects(policy, pod):
            continue
        for rule in policy.rules:
            sources = _sources(policy, rule.peers)
            if not rule.ports:
                anything = _union(anything, sources)
            for entry in rule.ports:
                for protocol, low, high in resolve(entry, pod):
                    if low is None or high is None:
                        protocols[protocol] = _union(protocols.get(protocol, _NONE), sources)
                    elif high - low < EXPANDED:
                        for number in range(low, high + 1):
                            key = protocol, number
                            ports[key] = _union(ports.get(key, _NONE), sources)
                    else:
                        wide = protocol, low, high
                        ranges[wide] = _union(ranges.get(wide, _NONE), sources)
    return Admission(anything, protocols, ports, ranges)


_NONE: frozenset[Source] = frozenset()


def _sources(policy: Policy, peers: Iterable[Peer]) -> Sources:
    listed = tuple(peers)
    if not listed:
        return None
    return frozenset((policy.namespace if peer.pods is not None else "", peer) for peer in listed)


def _union(one: Sources, other: Sources) -> Sources:
    return None if one is None or other is None else one | other


def _class(build: _Build, admission: Admission, *, audit: bool) -> str:
    """The chain of an admission; made when it is first asked for."""
    rules = []
    if admission.anything:
        rules.append(_verdict(build, admission.anything))
    for protocol in Protocol:
        sources = admission.protocols.get(protocol, _NONE)
        if sources is None or sources:
            rules.append(f"meta l4proto {L4[protocol]} {_verdict(build, sources)}")
    key = "inet_proto . inet_service"
    exact = {
        f"{L4[protocol]} . {number}": _verdict(build, sources)
        for (protocol, number), sources in admission.ports.items()
    }
    wide = {
        f"{L4[protocol]} . {low}-{high}": _verdict(build, sources)
        for protocol, low, high, sources in _segments(admission.ranges)
    }
    for prefix, flags, elements in (("m", "", exact), ("r", "flags interval", wide)):
        if elements:
            name = f"{prefix}_{_hash(sorted(elements.items()))}"
            build.maps[name] = NftMap(key, flags, elements)
            rules.append(f"{skeleton.PORTED} ct protocol . ct reply proto-src vmap @{name}")
    rules.append("goto audit" if audit else "goto deny")
    name = f"{'a' if audit else 'c'}_{_hash(rules)}"
    build.chains[name] = Chain(tuple(rules))
    return name


def _segments(
    ranges: Mapping[tuple[Protocol, int, int], Sources],
) -> list[tuple[Protocol, int, int, Sources]]:
    """Ranges that overlap, cut into pieces that do not; each with all its sources."""
    found = []
    for protocol in Protocol:
        own = [(low, high, s) for (p, low, high), s in ranges.items() if p is protocol]
        cuts = sorted({low for low, _, _ in own} | {high + 1 for _, high, _ in own})
        for low, after in itertools.pairwise(cuts):
            sources: Sources = _NONE
            for first, last, more in own:
                if first <= low <= last:
                    sources = _union(sources, more)
            if sources is None or sources:
                found.append((protocol, low, after - 1, sources))
    return found


def _verdict(build: _Build, sources: Sources) -> str:
    return "accept" if sources is None else f"jump {_peers(build, sources)}"


def _peers(build: _Build, sources: frozenset[Source]) -> str:
    """The chain that accepts a union of sources, over one set a family."""
    known = build.peers.get(sources)
    if known is not None:
        return known
    digest = _hash(sorted(map(repr, sources)))
    addresses: dict[int, set[str]] = {4: set(), 6: set()}
    for address, pod in build.owners.items():
        if _is_source(sources, pod, build.cluster.namespaces):
            addresses[ip_address(address).version].add(address)
    build.sets[f"p4_{digest}"] = NftSet("ipv4_addr", elements=frozenset(addresses[4]))
    build.sets[f"p6_{digest}"] = NftSet("ipv6_addr", elements=frozenset(addresses[6]))
    chain = f"q_{digest}"
    build.chains[chain] = Chain(
        (
            f"ct original ip saddr @p4_{digest} accept",
            f"ct original ip6 saddr @p6_{digest} accept",
        )
    )
    build.peers[sources] = chain
    return chain


def _is_source(sources: frozenset[Source], pod: Pod, namespaces: Mapping[str, Namespace]) -> bool:
    return any(peer_matches(peer, namespace, pod, namespaces) for namespace, peer in sources)


def _hash(content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:12]
