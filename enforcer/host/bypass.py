"""Ways by which packets may go round the policies on this host.

Which there are is said by `devices` and `foreign`. The caller asks every few seconds. Links,
settings and filters of devices are few and read each time; rules of other tables only when the
generation of the ruleset has changed. Nothing is ever changed, no element of any set is read, and
no process is started.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from enforcer.host import bpf, devices, foreign, rtnetlink
from enforcer.host.finding import Finding, Severity
from enforcer.host.netlink import NETFILTER, ROUTE, Netlink
from enforcer.nft import wire

__all__ = ["Detector", "Finding", "Severity"]

OWN = "netpol"  # what the names of our tables begin with

BRIDGE = Path("/proc/sys/net/bridge")  # of the namespace of the thread that reads
_GETQDISC, _GETTFILTER = 38, 46
_NFTABLES = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GETTABLE, _GETCHAIN, _GETRULE, _GETGEN, _GETFLOWTABLE = 1, 4, 7, 16, 23
_RULE_TABLE = 1
# A kernel takes some 10 us to list a rule. Where others have many and change them all the time, no
# more than this share of it goes into reading them.
_SHARE = 1 / 50


class Detector:
    """`ignored` are devices that lead to no pod though they seem to, such as docker0."""

    def __init__(
        self, *, ignored: Collection[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ignored = frozenset(ignored)
        self._clock = clock
        self._again = -math.inf
        self._seen: tuple[bytes, frozenset[int]] | None = None
        self._rules: list[Finding] = []

    def findings(self) -> list[Finding]:
        """All of them, in a fixed order. Blocks for milliseconds, or as long as rules take.

        To be called in a thread that is in the network namespace that is filtered. `OSError` where
        the kernel does not answer, as without CAP_NET_ADMIN.
        """
        with closing(Netlink(ROUTE)) as route:
            everything = route.dump(rtnetlink.GETLINK, rtnetlink.named(""))
            links = [self._seen_as(link) for link in map(rtnetlink.link, everything)]
            redirects = list(_redirects(route))
        redirects += [
            devices.Redirect(link.index, "bpf", 0)
            for link in links
            if bpf.attached(link.index, netkit=link.kind == "netkit")
        ]
        found = devices.bridges(links, _settings())
        found += devices.traffic_control(links, redirects)
        found += devices.xdp(links)
        return sorted({*found, *self._foreign(links)})

    def _seen_as(self, link: rtnetlink.Link) -> rtnetlink.Link:
        if link.name not in self._ignored:
            return link
        return replace(link, kind="", away=False, xdp=False)

    def _foreign(self, links: Collection[rtnetlink.Link]) -> list[Finding]:
        """What rules do depends on them, and on which devices lead to pods."""
        by_index = {link.index: link for link in links}
        leading = frozenset(link.index for link in links if devices.leads(link, links))

        def leads(index: int) -> bool:
            return index in leading or index not in by_index

        with closing(Netlink(NETFILTER)) as nft:
            seen, begun = (_generation(nft), leading), self._clock()
            if self._seen != seen and begun >= self._again:
                self._rules = _read(nft, leads)
                self._seen = seen
                self._again = begun + (self._clock() - begun) / _SHARE
        return self._rules


def _read(nft: Netlink, leads: Callable[[int], bool]) -> list[Finding]:
    tables = foreign.tables(_dump(nft, _GETTABLE), own=OWN)
    if not tables:
        return []
    hooks = foreign.hooks(_dump(nft, _GETCHAIN))
    found = foreign.flowtables(_flowtables(nft), among=tables)
    families = {name: number for number, name in foreign.FAMILIES.items()}
    for table in tables:
        family, name = table
        if table in hooks and family in families:
            only = wire.text(_RULE_TABLE, name)
            rules = _dump(nft, _GETRULE, families[family], only)
            with suppress(FileNotFoundError):  # removed a moment ago
                found += foreign.rules(rules, table=table, hooks=hooks[table], leads=leads)
    return found


def _flowtables(nft: Netlink) -> list[bytes]:
    """None where the kernel was built without them."""
    try:
        return list(_dump(nft, _GETFLOWTABLE))
    except OSError:
        return []


def _dump(nft: Netlink, what: int, family: int = 0, only: bytes = b"") -> Iterator[bytes]:
    return nft.dump(_NFTABLES | what, bytes((family, 0, 0, 0)) + only)


def _generation(nft: Netlink) -> bytes:
    return wire.attributes(nft.get(_NFTABLES | _GETGEN, bytes(4))[foreign.HEAD :]).get(1, b"")


def _redirects(route: Netlink) -> Iterator[devices.Redirect]:
    for index, parents in devices.qdiscs(list(route.dump(_GETQDISC, devices.all_qdiscs()))):
        for parent in parents:
            for body in route.dump(_GETTFILTER, devices.filters_of(index, parent)):
                yield from devices.redirects(body)


def _settings() -> dict[str, bool] | None:
    """What br_netfilter is set to in this namespace; None where it is not loaded."""
    try:
        return {
            name: (BRIDGE / name).read_text().strip() != "0"
            for name in (*devices.CALLS, devices.TAGGED)
        }
    except FileNotFoundError:
        return None
