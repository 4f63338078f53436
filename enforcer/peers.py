"""Peer sets: which addresses a union of selectors stands for, kept as pods come and go. Pure.

A set is named by its selectors, so classes share it and its name does not depend on who is in it.
It lives as long as a class uses it.
"""

from collections import defaultdict
from collections.abc import Iterable

from enforcer.admission import Source
from enforcer.index import Index, Selectors
from enforcer.ruleset import Chain, NftSet, Ruleset, short_hash
from enforcer.skeleton import ADDRESS
from policy import Namespace, Pod, Selector, peer_matches


def version(address: str) -> int:
    return 6 if ":" in address else 4


class Peers:
    """The peer sets of a ruleset. Names are those of the chains, `q_HASH`."""

    def __init__(self, index: Index, rules: Ruleset) -> None:
        self._index = index
        self._rules = rules
        self._names: dict[frozenset[Source], str] = {}
        self._sources: dict[str, frozenset[Source]] = {}
        self._uses: dict[str, int] = {}
        self._idle: set[str] = set()
        self._sets: dict[Source, set[str]] = defaultdict(set)
        self._pods: dict[str, Selectors[Source]] = defaultdict(Selectors)
        self._by_labels: Selectors[Source] = Selectors()
        self._sets_of: dict[str, frozenset[str]] = {}

    def acquire(self, sources: frozenset[Source]) -> str:
        """The chain of a union of selectors; each call wants a `release`."""
        name = self._names.get(sources)
        if name is None:
            name = self._names[sources] = f"q_{short_hash(sorted(map(repr, sources)))}"
            self._sources[name], self._uses[name] = sources, 0
            self._make(name, sources)
        self._uses[name] += 1
        return name

    def release(self, name: str) -> None:
        self._uses[name] -= 1
        if not self._uses[name]:
            self._idle.add(name)

    def collect(self) -> None:
        """Take the sets that nobody uses out of the ruleset."""
        for name in self._idle:
            if not self._uses[name]:
                self._remove(name)
        self._idle.clear()

    def place(self, address: str, owner: Pod | None) -> None:
        """Put an address into the sets that its owner belongs to, and out of the others."""
        before = self._sets_of.get(address, frozenset())
        now = self._of(owner) if owner is not None else frozenset()
        for name in before - now:
            self._rules.drop(_set(name, address), address)
        for name in now - before:
            self._rules.put(_set(name, address), address)
        if now:
            self._sets_of[address] = now
        else:
            self._sets_of.pop(address, None)

    def _make(self, name: str, sources: frozenset[Source]) -> None:
        for family, address_type in ADDRESS.items():
            self._rules.add_set(_name(name, family), NftSet(address_type))
        self._rules.add_chain(
            name,
            Chain(
                (
                    f"ct original ip saddr @{_name(name, 4)} accept",
                    f"ct original ip6 saddr @{_name(name, 6)} accept",
                )
            ),
        )
        for source in sources:
            if source not in self._sets:
                listing, selector = self._listing(source)
                listing.add(source, selector)
            self._sets[source].add(name)
            for pod in self._matching(source):
                for address in pod.ips:
                    if self._index.owner(address) is pod:
                        self._rules.put(_set(name, address), address)
                        known = self._sets_of.get(address, frozenset())
                        self._sets_of[address] = known | {name}

    def _remove(self, name: str) -> None:
        sources = self._sources.pop(name)
        del self._names[sources], self._uses[name]
        for source in sources:
            self._sets[source].discard(name)
            if not self._sets[source]:
                del self._sets[source]
                listing, selector = self._listing(source)
                listing.remove(source, selector)
        self._rules.drop_chain(name)
        for family in ADDRESS:
            set_name = _name(name, family)
            for address in self._rules.sets[set_name].elements:
                left = self._sets_of[address] - {name}
                if left:
                    self._sets_of[address] = left
                else:
                    del self._sets_of[address]
            self._rules.drop_set(set_name)

    def _of(self, pod: Pod) -> frozenset[str]:
        """The sets that a pod's addresses belong to."""
        found: set[str] = set()
        own = self._pods.get(pod.namespace)
        if own is not None:
            for source in own.matching(pod.labels):
                found |= self._sets[source]
        namespace = self._index.namespaces.get(pod.namespace)
        if namespace is not None:
            for source in self._by_labels.matching(namespace.labels):
                found |= self._sets[source]
        return frozenset(found)

    def _matching(self, source: Source) -> Iterable[Pod]:
        namespace, peer = source
        spaces: dict[str, Namespace] = self._index.namespaces
        if peer.pods is not None:
            candidates = self._index.selected(namespace, peer.pods)
        else:
            candidates = (
                pod
                for space in spaces.values()
                if peer.namespaces is not None and peer.namespaces.matches(space.labels)
                for pod in self._index.pods_in(space.name)
            )
        return (pod for pod in candidates if peer_matches(peer, namespace, pod, spaces))

    def _listing(self, source: Source) -> tuple[Selectors[Source], Selector]:
        """Where a source is looked up, and by which selector."""
        namespace, peer = source
        if peer.pods is not None:
            return self._pods[namespace], peer.pods
        assert peer.namespaces is not None
        return self._by_labels, peer.namespaces


def _name(chain: str, family: int) -> str:
    return f"p{family}_{chain.removeprefix('q_')}"


def _set(chain: str, address: str) -> str:
    return _name(chain, version(address))
