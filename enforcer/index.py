"""The cluster, laid out so that a change is found by what it touches and never by a search.

Selectors are looked up by the labels that they want, pods by the labels that they have, addresses
by the pods that claim them. Pure. Which of two pods owns an address, and what a selector matches,
is `policy`'s to say; here is only where to look.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from policy import Isolation, Namespace, Operator, Pod, Policy, Selector

Key = tuple[str, str]  # namespace and name
Pair = tuple[str, str]  # key and value of a label

T = TypeVar("T", bound=Hashable)


class Selectors(Generic[T]):
    """Things with a selector; those that match some labels are found by the labels."""

    def __init__(self) -> None:
        self._by_pair: dict[Pair, dict[T, Selector]] = defaultdict(dict)
        self._rest: dict[T, Selector] = {}

    def add(self, item: T, selector: Selector) -> None:
        for place in self._places(selector):
            place[item] = selector

    def remove(self, item: T, selector: Selector) -> None:
        for place in self._places(selector):
            place.pop(item, None)
        for pair in _wanted(selector):
            if not self._by_pair[pair]:
                del self._by_pair[pair]

    def matching(self, labels: Mapping[str, str]) -> Iterator[T]:
        """Each once: a selector stands under one key, of which a pod has one value."""
        for pair in labels.items():
            for item, selector in self._by_pair.get(pair, {}).items():
                if selector.matches(labels):
                    yield item
        for item, selector in self._rest.items():
            if selector.matches(labels):
                yield item

    def _places(self, selector: Selector) -> list[dict[T, Selector]]:
        pairs = _wanted(selector)
        return [self._by_pair[pair] for pair in pairs] if pairs else [self._rest]


def _wanted(selector: Selector) -> list[Pair]:
    """Labels of which a match must have one; none for a selector that does not say so."""
    for requirement in selector.requirements:
        if requirement.operator is Operator.IN:
            return [(requirement.key, value) for value in requirement.values]
    return []


class Index:
    """Namespaces, pods and policies as values, and the ways to find them."""

    def __init__(self) -> None:
        self.namespaces: dict[str, Namespace] = {}
        self.pods: dict[Key, Pod] = {}
        self.policies: dict[str, dict[str, Policy]] = defaultdict(dict)
        self.policy_count = 0
        self._by_namespace: dict[str, dict[Key, Pod]] = defaultdict(dict)
        self._by_label: dict[tuple[str, Pair], dict[Key, Pod]] = defaultdict(dict)
        self._claims: dict[str, dict[Key, Pod]] = defaultdict(dict)
        self._selecting: dict[str, Selectors[str]] = defaultdict(Selectors)
        self.disputed: set[str] = set()  # addresses that more than one live pod claims

    def put_pod(self, key: Key, pod: Pod | None) -> Pod | None:
        """Take a pod in, or out; what it was."""
        old = self.pods.pop(key, None)
        if old is not None:
            _out(self._by_namespace, old.namespace, key)
            for pair in old.labels.items():
                _out(self._by_label, (old.namespace, pair), key)
            for address in old.ips:
                _out(self._claims, address, key)
        if pod is not None:
            self.pods[key] = pod
            self._by_namespace[pod.namespace][key] = pod
            for pair in pod.labels.items():
                self._by_label[pod.namespace, pair][key] = pod
            for address in pod.ips if pod.live else ():
                self._claims[address][key] = pod
        for address in {*(old.ips if old else ()), *(pod.ips if pod else ())}:
            disputed = len(self._claims.get(address, ())) > 1
            (self.disputed.add if disputed else self.disputed.discard)(address)
        return old

    def put_policy(self, key: Key, made: Policy | None) -> Policy | None:
        """Take a policy in, or out; what it was."""
        namespace, name = key
        own = self.policies[namespace]
        old = own.pop(name, None)
        self.policy_count += (made is not None) - (old is not None)
        if old is not None:
            self._selecting[namespace].remove(name, old.pod_selector)
        if made is not None:
            own[name] = made
            self._selecting[namespace].add(name, made.pod_selector)
        elif not own:
            del self.policies[namespace]
            self._selecting.pop(namespace, None)
        return old

    def isolation(self, namespace: str) -> Isolation:
        """One that is not known (yet) is isolated: fail closed."""
        known = self.namespaces.get(namespace)
        return known.isolation if known else Isolation.ON

    def owner(self, address: str) -> Pod | None:
        """The live pod that holds an address; of several that claim it, the newest start."""
        return self.newest(self.claims(address))

    @staticmethod
    def newest(pods: Iterable[Pod]) -> Pod | None:
        return max(pods, key=lambda pod: (pod.started, pod.namespace, pod.name), default=None)

    def claims(self, address: str) -> Iterable[Pod]:
        """The live pods that say that an address is theirs."""
        return self._claims.get(address, {}).values()

    def policies_of(self, pod: Pod) -> list[Policy]:
        """Those of its namespace that select it, by name."""
        selecting = self._selecting.get(pod.namespace)
        names = sorted(selecting.matching(pod.labels)) if selecting else ()
        return [self.policies[pod.namespace][name] for name in names]

    def pods_in(self, namespace: str) -> Iterable[Pod]:
        return self._by_namespace.get(namespace, {}).values()

    def selected(self, namespace: str, selector: Selector) -> Iterator[Pod]:
        """The pods of a namespace that a selector matches."""
        wanted = _wanted(selector)
        if not wanted:
            found: Iterable[Pod] = self.pods_in(namespace)
        else:
            found = (
                pod for pair in wanted for pod in self._by_label.get((namespace, pair), {}).values()
            )
        return (pod for pod in found if selector.matches(pod.labels))


def _out(index: dict[T, dict[Key, Pod]], place: T, key: Key) -> None:
    """Remove an entry, and its place with it when that is empty."""
    entries = index.get(place)
    if entries is not None:
        entries.pop(key, None)
        if not entries:
            del index[place]
