"""The flows that the kernel's sets hold, with what the records add: since when, and who it was.

The sets may hold some 100,000 flows after a scan of ports. Each element is only compared; names and
reasons are found for those that are shown. Pure.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import NamedTuple

from enforcer.flows.reason import CHANGED, View, Why, applicable, why
from enforcer.flows.report import Decision, Key, Party, Record, Report, report
from policy import Pod, Policy

SETS = {"denied": Decision.DENIED, "wouldbe": Decision.AUDITED}
LIMIT, MOST = 100, 5000  # flows in one answer: by default, and at most, which takes up to 1 s


class Element(NamedTuple):
    """An element of the kernel's sets.

    `kind` is the set's name without its family: `denied` or `wouldbe`; `protocol` is a name in
    either case; `expires` is in seconds from now.
    """

    kind: str
    client: str
    pod: str
    protocol: str
    port: int
    packets: int
    bytes: int
    expires: float


class Pick(NamedTuple):
    """Which flows; empty picks all. `namespace` and `pod` mean either end.

    `pod` is a name, or an address; `verdict` is a value of `Decision`.
    """

    namespace: str = ""
    pod: str = ""
    verdict: str = ""

    def party(self, party: Party) -> bool:
        return (not self.namespace or party.namespace == self.namespace) and (
            not self.pod or self.pod in (party.pod, party.address)
        )

    def decision(self, decision: Decision) -> bool:
        return not self.verdict or decision == self.verdict


class _Found(NamedTuple):
    last: float
    packets: int
    record: Record | None


def merge(
    elements: Iterable[Element],
    records: Mapping[Key, Record],
    *,
    view: View,
    now: float,
    timeout: float,
    pick: Pick,
    limit: int,
) -> list[Report]:
    """The last seen first. `timeout` is that of the elements, in seconds; `now` since 1970."""
    limit = max(0, min(limit, MOST))
    party = cache(lambda address: Party.at(view, address))
    picked = cache(lambda address: pick.party(party(address)))

    def element_picked(item: Element) -> bool:
        return pick.decision(SETS[item[0]]) and (picked(item[1]) or picked(item[2]))

    def record_picked(item: tuple[Key, Record]) -> bool:
        key, record = item
        return pick.decision(key.decision) and (
            pick.party(record.source) or pick.party(record.destination)
        )

    # A record is not newer than its element, so what the cuts leave out is not shown anyway.
    some = filter(element_picked, elements) if any(pick) else elements
    latest = heapq.nlargest(limit, some, key=lambda item: item[7])
    recorded = heapq.nlargest(
        limit, filter(record_picked, records.items()), key=lambda item: item[1].last
    )
    found: dict[Key, _Found] = {}
    for kind, client, pod, protocol, port, packets, _bytes, expires in latest:
        key = Key(SETS[kind], client, pod, protocol.upper(), port)
        record = records.get(key)
        if record is None or record_picked((key, record)):
            found[key] = _Found(min(now, now - timeout + expires), packets, record)
    for key, record in recorded:
        last, packets, _ = found.get(key, (record.last, 0, None))
        found[key] = _Found(max(last, record.last), packets, record)
    shown = heapq.nlargest(limit, found.items(), key=lambda item: item[1].last)
    policies = _once(view)
    return [
        _shown(key, item, party, lambda key: why(view, key.flow, policies)) for key, item in shown
    ]


def _shown(
    key: Key, found: _Found, party: Callable[[str], Party], reason: Callable[[Key], Why]
) -> Report:
    source, destination = party(key.source), party(key.destination)
    last, count, record = found
    if record is None:
        return report(key, source, destination, count=count, since=last, last=last, why=reason(key))
    same = (record.source, record.destination) == (source, destination)
    return report(
        key,
        record.source,
        record.destination,
        count=max(count, record.count),
        since=record.first,
        last=max(last, record.last),
        why=reason(key) if same else Why(CHANGED),
    )


def _once(view: View) -> Callable[[Pod], tuple[Policy, ...]]:
    """`applicable`, that looks through the policies of a namespace once for each pod."""
    known: dict[tuple[str, str], tuple[Policy, ...]] = {}

    def policies(pod: Pod) -> tuple[Policy, ...]:
        name = pod.namespace, pod.name
        if name not in known:
            known[name] = applicable(view, pod)
        return known[name]

    return policies
