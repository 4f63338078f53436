"""What a pod lets in, as a value: the union of all rules that select it. Pure.

Two pods with equal admissions share a class, whatever their policies are called. What users write
costs every node that has such a pod, so there is a bound to it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from policy import Peer, Pod, Policy, Protocol, resolve

EXPANDED = 64  # ports of a range that become single elements; a wider one becomes an interval
SINGLES = 2_048  # single elements of a pod's ranges, all together
PIECES = 4_096  # ranges that a pod's ranges are cut into where they overlap
MENTIONS = 65_536  # of sources, in all that can be reached: what a pod's rules multiply to
UNIONS = 512  # different unions of sources
EFFORT = 1_000_000  # sources that are put together on the way

# The namespace of the policy counts only for a peer that selects pods.
Source = tuple[str, Peer]
Sources = frozenset[Source] | None  # None: any source
NOBODY: frozenset[Source] = frozenset()


@dataclass(frozen=True, slots=True)
class Admission:
    """Sources by what they may reach: anything, a protocol, a port, an inclusive range.

    Ranges do not overlap.
    """

    anything: Sources
    protocols: Mapping[Protocol, Sources]
    ports: Mapping[tuple[Protocol, int], Sources]
    ranges: Mapping[tuple[Protocol, int, int], Sources]

    @property
    def everything(self) -> bool:
        return self.anything is None


class TooLarge(Exception):
    """The rules that select a pod multiply to more than is enforced; the text says what to do."""


def admission(pod: Pod, policies: Iterable[Policy]) -> Admission:
    """That of a pod under the policies that select it. `TooLarge`."""
    singles, union = 0, _Union()
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
                    elif low == high or (high - low < EXPANDED and singles < SINGLES):
                        singles += high - low
                        for number in range(low, high + 1):
                            key = protocol, number
                            ports[key] = union(ports.get(key, NOBODY), sources)
                    else:
                        wide = protocol, low, high
                        ranges[wide] = union(ranges.get(wide, NOBODY), sources)
    found = Admission(anything, protocols, ports, segments(ranges))
    _check(pod, found)
    return found


def segments(
    ranges: Mapping[tuple[Protocol, int, int], Sources],
) -> dict[tuple[Protocol, int, int], Sources]:
    """Ranges that overlap, cut into pieces that do not; each with all its sources. `TooLarge`."""
    found: dict[tuple[Protocol, int, int], Sources] = {}
    mentions = 0
    for protocol in Protocol:
        begins: dict[int, list[Sources]] = defaultdict(list)
        ends: dict[int, list[Sources]] = defaultdict(list)
        for (own, low, high), sources in ranges.items():
            if own is protocol:
                begins[low].append(sources)
                ends[high + 1].append(sources)
        open_to: Counter[Source | None] = Counter()
        start = 0
        for cut in sorted(begins.keys() | ends.keys()):
            if open_to:
                pieces = None if None in open_to else frozenset(s for s in open_to if s is not None)
                found[protocol, start, cut - 1] = pieces
                mentions += len(open_to)
                if mentions > MENTIONS or len(found) > PIECES:
                    raise TooLarge("ranges of ports overlap too much; name fewer of them")
            for sources in ends[cut]:
                open_to.subtract(_counted(sources))
            for sources in begins[cut]:
                open_to.update(_counted(sources))
            open_to = +open_to
            start = cut
    return found


def _counted(sources: Sources) -> Iterable[Source | None]:
    return (None,) if sources is None else sources


def _check(pod: Pod, admits: Admission) -> None:
    """`TooLarge` for what would multiply beyond the bounds on each node."""
    listed = (admits.protocols, admits.ports, admits.ranges)
    unions = {sources for reached in listed for sources in reached.values() if sources}
    mentions = sum(len(sources) for reached in listed for sources in reached.values() if sources)
    name = f"{pod.namespace}/{pod.name}"
    if len(unions) > UNIONS:
        raise TooLarge(
            f"ports of {name} have {len(unions)} different lists of sources, at most {UNIONS} are"
            " enforced; give more ports the same ones"
        )
    if mentions > MENTIONS:
        raise TooLarge(
            f"sources of {name} are named {mentions} times in all its ports, at most {MENTIONS} are"
            " enforced; name fewer sources or ports"
        )


class _Union:
    """Unions of sources: each pair once, and no more of them than is sane. `TooLarge`."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[Sources, Sources, Sources]] = {}
        self._effort = 0

    def __call__(self, one: Sources, other: Sources) -> Sources:
        if one is None or other is None:
            return None
        if not one or one is other:
            return other
        # The inputs are kept as well, so that no other object gets their identities.
        known = self._known.get((id(one), id(other)))
        if known is None:
            made = one | other
            self._effort += len(made)
            if self._effort > EFFORT:
                raise TooLarge("rules for the same ports name too many sources; name fewer")
            known = self._known[id(one), id(other)] = one, other, made
        return known[2]


def _sources(policy: Policy, peers: Iterable[Peer]) -> Sources:
    listed = tuple(peers)
    if not listed:
        return None
    return frozenset((policy.namespace if peer.pods is not None else "", peer) for peer in listed)
