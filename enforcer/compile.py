"""From the cluster to the ruleset of one node, a change at a time.

Pods that admit the same traffic share a class: a chain that looks the port up and jumps to a set
of peers. A change marks the addresses that it may touch; `take` computes those anew and tells what
came of it, so the cost grows with the change and not with the cluster. The result is tested
against `policy.verdict`, whose algorithm it does not share, and against itself from scratch. Pure.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from enforcer import skeleton
from enforcer.admission import NOBODY, Admission, Sources, TooLarge, admission
from enforcer.index import Index, Key
from enforcer.peers import Peers, version
from enforcer.ruleset import Chain, Change, NftSet, Ruleset, short_hash
from policy import Cluster, Isolation, Namespace, Pod, Policy, Protocol

L4 = {
    Protocol.TCP: "tcp",
    Protocol.UDP: "udp",
    Protocol.SCTP: "sctp",
    Protocol.ICMP: "{ icmp, ipv6-icmp }",
}
NOTHING = Admission(NOBODY, {}, {}, {})
_PORT = "inet_proto . inet_service"

# What decides a pod's class: audit or not, the policies as they are, what ports are called.
_Reason = tuple[bool, tuple[int, ...], object]


@dataclass(frozen=True, slots=True)
class _Place:
    """What the ruleset says of a local address; without a reason it is open."""

    reason: _Reason | None
    verdict: str = "accept"
    isolated: bool = False
    hairpins: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Class:
    """A class in use, and what it uses; `uses` counts the reasons that led here."""

    maps: tuple[str, ...]
    peers: tuple[str, ...]
    uses: int = 0


@dataclass(slots=True)
class _Led:
    """The class that a reason led to; `uses` counts the addresses."""

    name: str
    uses: int = 0


class Compiler:
    """Keeps the ruleset of a node; without a name for the node, every pod is local."""

    def __init__(
        self,
        *,
        node: str = "",
        pod_cidrs: Iterable[str] = (),
        log_group: int = skeleton.LOG_GROUP,
    ) -> None:
        self.index = Index()
        self.rules = Ruleset()
        self.classes: dict[str, _Class] = {}
        self._node = node
        self._peers = Peers(self.index, self.rules)
        self._maps: dict[str, int] = {}
        self._led: dict[_Reason, _Led] = {}
        self._idle: set[_Reason] = set()  # those that may be without a use
        self._versions: dict[Key, int] = {}
        self._latest = 0
        self._places: dict[str, _Place] = {}
        # Policies that together are too much for a pod, which is closed, and why.
        self.too_large: dict[_Reason, tuple[list[str], str]] = {}
        self._dirty: set[str] = set()
        skeleton.fill(self.rules, pod_cidrs, log_group=log_group)

    def put_namespace(self, name: str, namespace: Namespace | None) -> None:
        """None: there is no such namespace."""
        if namespace is None:
            self.index.namespaces.pop(name, None)
        else:
            self.index.namespaces[name] = namespace
        for pod in self.index.pods_in(name):
            self._dirty.update(pod.ips)

    def put_pod(self, key: Key, pod: Pod | None) -> None:
        """None: there is no such pod."""
        old = self.index.put_pod(key, pod)
        for address in {*(old.ips if old else ()), *(pod.ips if pod else ())}:
            self._dirty.add(address)
            # Who loses or wins an address may reach itself by others.
            for other in self.index.claims(address):
                self._dirty.update(other.ips)

    def put_policy(self, key: Key, made: Policy | None) -> None:
        """None: there is no such policy."""
        old = self.index.put_policy(key, made)
        self._latest += 1
        self._versions[key] = self._latest
        if made is None:
            del self._versions[key]
        for one in (old, made):
            if one is not None:
                for pod in self.index.selected(one.namespace, one.pod_selector):
                    if self._is_local(pod):
                        self._dirty.update(pod.ips)

    def protects(self, pod: Pod | None) -> bool:
        """Whether a pod is one of this node that has an address."""
        return pod is not None and pod.live and bool(pod.ips) and self._is_local(pod)

    @property
    def dirty(self) -> int:
        """How many addresses `take` has to compute."""
        return len(self._dirty)

    def work(self, most: int) -> None:
        """Compute so many addresses of those that `take` would; what it tells does not differ."""
        for address in list(itertools.islice(self._dirty, most)):
            self._dirty.discard(address)
            self._peers.place(address, self.index.owner(address))
            self._put_place(address, self._place(address))

    def take(self) -> Change:
        """Bring the ruleset up to date; what has changed since the last call."""
        self.work(len(self._dirty))
        self._collect()
        return self.rules.take()

    def _is_local(self, pod: Pod) -> bool:
        return not self._node or pod.node == self._node

    def _place(self, address: str) -> _Place | None:
        """Its class is acquired; the place that it had keeps its own until it is replaced.

        A pod elsewhere that claims the address of one here takes it as a source, and not the
        protection of the one here.
        """
        owner = self.index.newest(filter(self._is_local, self.index.claims(address)))
        if owner is None:
            return None
        isolation = self.index.isolation(owner.namespace)
        if isolation is Isolation.OFF:
            return _Place(None)
        reason = self._class_of(owner, audit=isolation is Isolation.AUDIT)
        if reason is None:
            return _Place(None)
        own = (
            other
            for other in owner.ips
            if version(other) == version(address) and self.index.owner(other) is owner
        )
        hairpins = frozenset(f"{other} . {address}" for other in own)
        verdict = f"jump {self._led[reason].name}"
        return _Place(reason, verdict, isolation is Isolation.ON, hairpins)

    def _put_place(self, address: str, place: _Place | None) -> None:
        family, old = version(address), self._places.pop(address, None)
        rules = self.rules
        if place is None:
            rules.drop(f"pods{family}", address)
        else:
            self._places[address] = place
            rules.put(f"pods{family}", address, place.verdict)
        if place is not None and place.isolated:
            rules.put(f"iso{family}", address)
        else:
            rules.drop(f"iso{family}", address)
        before = old.hairpins if old else frozenset()
        now = place.hairpins if place else frozenset()
        for pair in before - now:
            rules.drop(f"self{family}", pair)
        for pair in now - before:
            rules.put(f"self{family}", pair)
        if old is not None and old.reason is not None:
            self._led[old.reason].uses -= 1
            self._idle.add(old.reason)

    def _class_of(self, pod: Pod, *, audit: bool) -> _Reason | None:
        """Why a pod's class is what it is, acquired; None if everything may reach it."""
        policies = self.index.policies_of(pod)
        named = any(port.name for p in policies for rule in p.rules for port in rule.ports)
        versions = tuple(self._versions[p.namespace, p.name] for p in policies)
        reason = audit, versions, pod.ports if named else ()
        if reason not in self._led:
            try:
                admits = admission(pod, policies)
            except TooLarge as error:
                admits = NOTHING
                names = [f"{policy.namespace}/{policy.name}" for policy in policies]
                self.too_large[reason] = names, str(error)
            if admits.everything:
                return None
            name = self._acquire(admits, audit=audit)
            self._led[reason] = _Led(name)
            self.classes[name].uses += 1
        self._led[reason].uses += 1
        return reason

    def _acquire(self, admits: Admission, *, audit: bool) -> str:
        """The chain of an admission; made when it is first asked for."""
        peers: list[str] = []

        def verdict(sources: Sources) -> str:
            if sources is None:
                return "accept"
            peers.append(self._peers.acquire(sources))
            return f"jump {peers[-1]}"

        rules = []
        if admits.anything:
            rules.append(verdict(admits.anything))
        for protocol in Protocol:
            sources = admits.protocols.get(protocol, NOBODY)
            if sources is None or sources:
                rules.append(f"meta l4proto {L4[protocol]} {verdict(sources)}")
        exact = {
            f"{L4[protocol]} . {number}": verdict(sources)
            for (protocol, number), sources in admits.ports.items()
        }
        wide = {
            f"{L4[protocol]} . {low}-{high}": verdict(sources)
            for (protocol, low, high), sources in admits.ranges.items()
        }
        maps = {}
        for prefix, flags, elements in (("m", "", exact), ("r", "flags interval", wide)):
            if elements:
                name = f"{prefix}_{short_hash(sorted(elements.items()))}"
                maps[name] = flags, elements
                rules.append(f"{skeleton.PORTED} ct protocol . ct reply proto-src vmap @{name}")
        rules.append("goto audit" if audit else "goto deny")
        name = f"{'a' if audit else 'c'}_{short_hash(rules)}"
        if name in self.classes:
            for peer in peers:
                self._peers.release(peer)
            return name
        for map_name, (flags, elements) in maps.items():
            self._acquire_map(map_name, flags, elements)
        self.rules.add_chain(name, Chain(tuple(rules)))
        self.classes[name] = _Class(tuple(maps), tuple(peers))
        return name

    def _acquire_map(self, name: str, flags: str, elements: dict[str, str]) -> None:
        if name not in self._maps:
            self._maps[name] = 0
            self.rules.add_set(name, NftSet(_PORT, flags, verdicts=True))
            for key, verdict in elements.items():
                self.rules.put(name, key, verdict)
        self._maps[name] += 1

    def _collect(self) -> None:
        """Remove what nobody uses any more: reasons, then their classes, maps and peer sets."""
        for reason in self._idle:
            led = self._led.get(reason)
            if led is not None and not led.uses:
                del self._led[reason]
                self.too_large.pop(reason, None)
                self.classes[led.name].uses -= 1
                if not self.classes[led.name].uses:
                    self._remove_class(led.name)
        self._idle.clear()
        self._peers.collect()

    def _remove_class(self, name: str) -> None:
        item = self.classes.pop(name)
        self.rules.drop_chain(name)
        for map_name in item.maps:
            self._maps[map_name] -= 1
            if not self._maps[map_name]:
                del self._maps[map_name]
                self.rules.drop_set(map_name)
        for peer in item.peers:
            self._peers.release(peer)


def compile_ruleset(cluster: Cluster, *, node: str = "", pod_cidrs: Iterable[str] = ()) -> Ruleset:
    """The table of a node for a state of the cluster, from scratch."""
    compiler = Compiler(node=node, pod_cidrs=pod_cidrs)
    for name, namespace in cluster.namespaces.items():
        compiler.put_namespace(name, namespace)
    for pod in cluster.pods:
        compiler.put_pod((pod.namespace, pod.name), pod)
    for item in cluster.policies:
        compiler.put_policy((item.namespace, item.name), item)
    compiler.take()
    return compiler.rules
