"""Services as kube-proxy writes them in its nftables mode: DNAT, and masquerading by a mark."""

from dataclasses import dataclass

from tests.lab.agents import Probe
from tests.lab.cluster import Arrival
from tests.lab.site import NODES

PODS = {4: "10.66.0.0/16", 6: "fd66::/30"}
_MARK = "0x4000"
_RULES = """
table {ip} kube-proxy {{
  map service-ips {{
    type {ip}_addr . inet_proto . inet_service : verdict
    elements = {{ {cluster_ips} }}
  }}
  map service-nodeports {{
    type inet_proto . inet_service : verdict
    elements = {{ {node_ports} }}
  }}
  {chains}
  chain mark-for-masquerade {{
    meta mark set meta mark or {mark}
  }}
  chain services {{
    {ip} daddr . meta l4proto . th dport vmap @service-ips
    {ip} daddr {{ {addresses} }} meta l4proto . th dport vmap @service-nodeports
  }}
  chain nat-prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    jump services
  }}
  chain nat-output {{
    type nat hook output priority -100; policy accept;
    jump services
  }}
  chain nat-postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    meta mark and {mark} == 0 return
    meta mark set meta mark xor {mark}
    masquerade fully-random
  }}
}}
"""
_CHAINS = """
  chain endpoint-{name} {{
    {ip} saddr {pod} jump mark-for-masquerade
    {dnats}
  }}
  chain service-{name} {{
    {ip} daddr {cluster_ip} {ip} saddr != {range} jump mark-for-masquerade
    goto endpoint-{name}
  }}
  chain external-{name} {{
    jump mark-for-masquerade
    goto service-{name}
  }}
"""
_PROTOCOLS = ("tcp", "udp", "sctp")


@dataclass(frozen=True, slots=True)
class Service:
    """One pod behind it, `node` is where; the addresses are IPv4 and IPv6.

    `port` is the Service's, `target` the pod's.
    """

    name: str
    ips: tuple[str, str]
    port: int
    node_port: int
    node: str
    pod: tuple[str, str]
    target: int

    def arrival(self, probe: Probe) -> Arrival | None:
        """What becomes of a probe, if it is one to this Service."""
        six = ":" in probe.address
        pod = self.pod[six]
        if (probe.address, probe.port) == (self.ips[six], self.port):
            # A node masquerades what comes from outside; that is before another one sees it.
            via = "node-1" if probe.source == "outside" else self.node
        elif probe.port == self.node_port:
            via = next((name for name, ips in NODES.items() if probe.address in ips), "")
        else:
            return None
        return Arrival(pod, self.target, "" if via == self.node else NODES[via][six])


def rules(services: tuple[Service, ...], node: str) -> str:
    """The tables of a node, both families."""
    return "".join(_table(services, NODES[node], version) for version in (4, 6))


def _table(services: tuple[Service, ...], own: tuple[str, ...], version: int) -> str:
    six = version == 6
    chains = [
        _CHAINS.format(
            name=service.name,
            ip="ip6" if six else "ip",
            pod=service.pod[six],
            cluster_ip=service.ips[six],
            range=PODS[version],
            dnats="\n    ".join(
                f"meta l4proto {protocol} dnat to "
                + (f"[{service.pod[six]}]" if six else service.pod[six])
                + f":{service.target}"
                for protocol in _PROTOCOLS
            ),
        )
        for service in services
    ]
    # nft 1.0.6 names the type of an address by its family.
    text = _RULES.format(
        ip="ip6" if six else "ip",
        mark=_MARK,
        addresses=own[six],
        chains="".join(chains),
        cluster_ips=", ".join(
            f"{s.ips[six]} . {protocol} . {s.port} : goto service-{s.name}"
            for s in services
            for protocol in _PROTOCOLS
        ),
        node_ports=", ".join(
            f"{protocol} . {s.node_port} : goto external-{s.name}"
            for s in services
            for protocol in _PROTOCOLS
        ),
    )
    return text.replace("type ip_addr", "type ipv4_addr").replace("type ip6_addr", "type ipv6_addr")
