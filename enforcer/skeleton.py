"""The part of the table that does not depend on policies: hooks, guards and the way to deny.

Every packet is judged on its conntrack tuple, in both directions: the target is the reply's
source, the peer the original's source, the port the reply's source port. There is no rule that
accepts what is established, so a tightened policy takes effect at the commit.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from enforcer.ruleset import Chain, NftSet, Ruleset

COUNTED_SIZE = 65_536  # flows that are counted one by one; the rule drops beyond it as well
COUNTED_SECONDS = 600
COUNTED_FLAGS = f"flags dynamic,timeout; size {COUNTED_SIZE}; timeout {COUNTED_SECONDS}s; counter"
COUNTED = ("denied", "wouldbe")
LOGGED = "limit rate 50/second burst 100 packets"  # records a second that leave the kernel
SNAPLEN = 96  # bytes: the addresses and ports behind a few extension headers of IPv6
LOG_GROUP = 77
ADDRESS = {4: "ipv4_addr", 6: "ipv6_addr"}
# The client, the pod, the protocol and the pod's own port.
FLOW = {family: f"{kind} . {kind} . inet_proto . inet_service" for family, kind in ADDRESS.items()}
PORTED = "meta l4proto { tcp, udp, sctp }"

# What pods on one bridge have besides their addresses, and nobody knows whose is which: addresses
# of the link, and those at which every host hears what is for all, or for those who end alike.
_OF_THE_LINK = (
    *("0.0.0.0/32", "224.0.0.1/32", "255.255.255.255/32"),
    *("fe80::/10", "ff02::1/128", "ff02::1:ff00:0/104"),
)
_NEIGHBOURS = (
    "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert,"
    " nd-redirect, mld-listener-query, mld-listener-report, mld-listener-done,"
    " mld2-listener-report } accept"
)
_HAIRPIN = (
    "ct original ip saddr . ct reply ip saddr @self4 accept",
    "ct original ip6 saddr . ct reply ip6 saddr @self6 accept",
)
_JUDGE = ("ct reply ip saddr vmap @pods4", "ct reply ip6 saddr vmap @pods6")
_FILTER = "type filter hook {} priority filter + 10; policy accept;"


def fill(rules: Ruleset, pod_cidrs: Iterable[str], *, log_group: int = LOG_GROUP) -> None:
    """Put the static sets and chains into a ruleset. A `log_group` of 0: nothing is logged."""
    for name, chain in _chains(log_group).items():
        rules.add_chain(name, chain)
    ranges = [ip_network(cidr, strict=False) for cidr in pod_cidrs]
    if ranges:
        ranges += map(ip_network, _OF_THE_LINK)
    for version, address in ADDRESS.items():
        rules.add_set(f"pods{version}", NftSet(address, verdicts=True))
        rules.add_set(f"iso{version}", NftSet(address))
        rules.add_set(f"self{version}", NftSet(f"{address} . {address}"))
        rules.add_set(f"cidr{version}", NftSet(address, "flags interval"))
        for item in _collapsed(ranges, version):
            rules.put(f"cidr{version}", item)
        for name in COUNTED:
            rules.add_set(f"{name}{version}", NftSet(FLOW[version], COUNTED_FLAGS))


def _collapsed(ranges: list[IPv4Network | IPv6Network], version: int) -> list[str]:
    """Those of a family without overlaps, which the kernel's set refuses."""
    if version == 4:
        own = [item for item in ranges if isinstance(item, IPv4Network)]
        return [str(item) for item in collapse_addresses(own)]
    return [
        str(item) for item in collapse_addresses([i for i in ranges if isinstance(i, IPv6Network)])
    ]


def _count(name: str) -> list[str]:
    """Count a flow in the set of its family."""
    return [
        f"{PORTED} update @{name}{version} {{ ct original {ip} saddr . ct reply {ip} saddr ."
        " ct protocol . ct reply proto-src counter }"
        for version, ip in ((4, "ip"), (6, "ip6"))
    ]


def _log(which: str, prefix: str, group: int) -> list[str]:
    rule = f'{which} {LOGGED} log prefix "{prefix}" group {group} snaplen {SNAPLEN}'
    return [rule] if group else []


def _chains(group: int) -> dict[str, Chain]:
    """Base chains are created once and never again."""
    return {
        "raw_guard": Chain(
            (_NEIGHBOURS, "ip daddr @iso4 counter drop", "ip6 daddr @iso6 counter drop")
        ),
        "midstream": Chain(("ip saddr @iso4 counter drop", "ip6 saddr @iso6 counter drop")),
        "deny": Chain(
            (
                *_HAIRPIN,
                *_count("denied"),
                *_log("ct direction original", "netpol denied", group),
                "meta l4proto tcp ct state established counter reject with tcp reset",
                "counter drop",
            )
        ),
        "audit": Chain(
            (
                *_HAIRPIN,
                *_count("wouldbe"),
                # A stream goes on here: it must not use up what others may log.
                *_log("ct state new", "netpol audit", group),
                "counter accept",
            )
        ),
        # Switches and routers ask the hosts of a link for their groups of IPv4 by this.
        "unknown": Chain((*_HAIRPIN, "meta l4proto igmp accept", "counter drop")),
        "forward": Chain(
            (
                "ct state invalid,untracked goto raw_guard",
                "ct state related meta l4proto { icmp, ipv6-icmp } accept",
                # Conntrack may pick up a connection in the middle, with the pod as its
                # originator; then the other direction would pass as a reply.
                "ct state new meta l4proto tcp tcp flags & (fin|syn|rst|ack) != syn jump midstream",
                *_JUDGE,
                "ct reply ip saddr @cidr4 goto unknown",
                "ct reply ip6 saddr @cidr6 goto unknown",
                # Only what was rewritten behind conntrack's back gets here with such a target.
                "ct direction original ip daddr @iso4 goto unknown",
                "ct direction original ip6 daddr @iso6 goto unknown",
            ),
            hook=_FILTER.format("forward"),
        ),
        # Service traffic that the host proxies leaves through OUTPUT with a foreign source. So do
        # the resets that `deny` answers with; without data, they may pass.
        "output": Chain(
            (
                "fib saddr type local accept",
                "tcp flags & rst == rst accept",
                "ct state invalid,untracked goto raw_guard",
                *_JUDGE,
            ),
            hook=_FILTER.format("output"),
        ),
    }
