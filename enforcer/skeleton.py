"""The part of the table that does not depend on policies: hooks, guards and the way to deny.

Every packet is judged on its conntrack tuple, in both directions: the target is the reply's
source, the peer the original's source, the port the reply's source port. There is no rule that
accepts what is established, so a tightened policy takes effect at the commit.
"""

from collections.abc import Iterable
from ipaddress import ip_network

from enforcer.ruleset import MARK, Chain, NftSet

DENIED_SIZE = 65_536  # flows that are counted one by one; the rule drops beyond it as well
DENIED_TIMEOUT = "10m"
PORTED = "meta l4proto { tcp, udp, sctp }"

_NEIGHBOURS = (
    "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert,"
    " nd-redirect, mld-listener-query, mld-listener-report, mld-listener-done,"
    " mld2-listener-report } accept"
)
_HAIRPIN = (
    "ct original ip saddr . ct reply ip saddr @self4 accept",
    "ct original ip6 saddr . ct reply ip6 saddr @self6 accept",
)


def _count(name: str) -> list[str]:
    """Count a flow in the set of its family."""
    return [
        f"{PORTED} update @{name}{version} {{ ct original {ip} saddr . ct reply {ip} saddr ."
        " ct protocol . ct reply proto-src counter }"
        for version, ip in ((4, "ip"), (6, "ip6"))
    ]


def chains() -> dict[str, Chain]:
    """The static chains; base chains are created once and never again."""
    forward = "type filter hook forward priority filter + 10; policy accept;"
    output = "type filter hook output priority filter + 10; policy accept;"
    judge = ("ct reply ip saddr vmap @pods4", "ct reply ip6 saddr vmap @pods6")
    return {
        MARK: Chain(()),
        "raw_guard": Chain(
            (_NEIGHBOURS, "ip daddr @iso4 counter drop", "ip6 daddr @iso6 counter drop")
        ),
        "midstream": Chain(("ip saddr @iso4 counter drop", "ip6 saddr @iso6 counter drop")),
        "deny": Chain(
            (
                *_HAIRPIN,
                *_count("denied"),
                "meta l4proto tcp ct state established counter reject with tcp reset",
                "counter drop",
            )
        ),
        "audit": Chain((*_HAIRPIN, *_count("wouldbe"), "counter accept")),
        "unknown": Chain((*_HAIRPIN, "counter drop")),
        "forward": Chain(
            (
                "ct state invalid,untracked goto raw_guard",
                "ct state related meta l4proto { icmp, ipv6-icmp } accept",
                # Conntrack may pick up a connection in the middle, with the pod as its
                # originator; then the other direction would pass as a reply.
                "ct state new meta l4proto tcp tcp flags & (fin|syn|rst|ack) != syn jump midstream",
                *judge,
                "ct reply ip saddr @cidr4 goto unknown",
                "ct reply ip6 saddr @cidr6 goto unknown",
            ),
            hook=forward,
        ),
        # Service traffic that the host proxies leaves through OUTPUT with a foreign source. So do
        # the resets that `deny` answers with; without data, they may pass.
        "output": Chain(
            ("fib saddr type local accept", "tcp flags & rst == rst accept", *judge), hook=output
        ),
    }


def sets(pod_cidrs: Iterable[str]) -> dict[str, NftSet]:
    """The static sets: local ranges, and the bounded sets that count what is denied."""
    ranges = [ip_network(cidr, strict=False) for cidr in pod_cidrs]
    found = {}
    for version in (4, 6):
        address = "ipv4_addr" if version == 4 else "ipv6_addr"
        listed = frozenset(str(item) for item in ranges if item.version == version)
        found[f"cidr{version}"] = NftSet(address, "flags interval", listed)
        for name in ("denied", "wouldbe"):
            found[f"{name}{version}"] = NftSet(
                f"{address} . {address} . inet_proto . inet_service",
                f"flags dynamic,timeout; size {DENIED_SIZE}; timeout {DENIED_TIMEOUT}; counter",
            )
    return found


COUNTED = frozenset({"denied4", "denied6", "wouldbe4", "wouldbe6"})
