"""Walk a ruleset value with one packet, as the kernel would: the compiler's independent judge.

It understands just the rules that the compiler and the skeleton write, and fails on any other, so
that a new rule cannot pass unseen.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from enforcer.ruleset import Ruleset

PORTED = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet of a new flow through the forward hook, by its conntrack tuple."""

    source: str
    target: str
    protocol: str
    port: int | None = None

    @property
    def family(self) -> str:
        return "ip6" if ":" in self.target else "ip"


def passes(rules: Ruleset, packet: Packet) -> bool:
    """Whether the table lets the packet through."""
    return _chain(rules, "forward", packet) is not False


def _chain(rules: Ruleset, name: str, packet: Packet) -> bool | None:
    """True: accept; False: drop; None: the chain ended."""
    for rule in rules.chains[name].rules or ():
        verdict = _rule(rules, rule, packet)
        if verdict is None:
            continue
        kind, _, target = verdict.partition(" ")
        if kind == "accept":
            return True
        if kind == "drop":
            return False
        result = _chain(rules, target, packet)
        if result is not None or kind == "goto":
            return result
    return None


def _rule(rules: Ruleset, rule: str, packet: Packet) -> str | None:
    """The verdict of a rule that matches."""
    if " log prefix " in rule:
        return None  # it is told of, and goes on
    if rule.startswith(("ct state", "meta l4proto tcp ct state established")):
        return None  # a new flow whose first packet is in order is none of these
    if rule.startswith("meta l4proto { tcp, udp, sctp } "):
        if packet.protocol not in PORTED:
            return None
        rule = rule.removeprefix("meta l4proto { tcp, udp, sctp } ")
        if rule.startswith("update @"):
            return None
    if found := re.fullmatch(r"meta l4proto (\{ icmp, ipv6-icmp \}|\w+) (.*)", rule):
        wanted = "ICMP" if found[1].startswith("{") else found[1].upper()
        return found[2] if packet.protocol == wanted else None
    if found := re.fullmatch(r"ct reply (ip6?) saddr vmap @(\w+)", rule):
        if found[1] != packet.family:
            return None
        return rules.sets[found[2]].elements.get(packet.target)
    if found := re.fullmatch(r"ct reply (ip6?) saddr @(\w+) (.*)", rule):
        inside = any(
            ip_address(packet.target) in ip_network(cidr)
            for cidr in rules.sets[found[2]].elements
            if found[1] == packet.family
        )
        return found[3] if inside else None
    if found := re.fullmatch(r"ct original (ip6?) saddr @(\w+) (.*)", rule):
        hit = found[1] == packet.family and packet.source in rules.sets[found[2]].elements
        return found[3] if hit else None
    if found := re.fullmatch(r"ct original (ip6?) saddr \. ct reply \S+ saddr @(\w+) (.*)", rule):
        pair = f"{packet.source} . {packet.target}"
        return found[3] if pair in rules.sets[found[2]].elements else None
    if found := re.fullmatch(r"ct direction original (ip6?) daddr @(\w+) (.*)", rule):
        hit = found[1] == packet.family and packet.target in rules.sets[found[2]].elements
        return found[3] if hit else None
    if found := re.fullmatch(r"ct protocol \. ct reply proto-src vmap @(\w+)", rule):
        return _port(rules, found[1], packet)
    if found := re.fullmatch(r"(counter )?(accept|drop|jump \w+|goto \w+)", rule):
        return found[2]
    raise AssertionError(f"the interpreter does not know the rule {rule!r}")


def _port(rules: Ruleset, name: str, packet: Packet) -> str | None:
    assert packet.port is not None
    for key, verdict in rules.sets[name].elements.items():
        protocol, _, ports = key.partition(" . ")
        low, _, high = ports.partition("-")
        if protocol == PORTED[packet.protocol] and int(low) <= packet.port <= int(high or low):
            return verdict
    return None
