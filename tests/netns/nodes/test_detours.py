"""Other ways to an isolated pod than a client's packet: by the host, and by rules of others."""

import contextlib
import socket

import policy
from policy import Flow
from tests.lab import packets, services
from tests.lab.inside import socket_in
from tests.lab.packets import ipv4, ipv6
from tests.lab.site import NODES
from tests.lab.world import configure
from tests.netns.conftest import rule, spec
from tests.netns.nodes.conftest import BACK1, FRONT1, OTHER1, SERVICES, Lab, pairs

PORT = 9000
FRONT = {"pods": {"role": "front"}}
TRANSPARENT = {socket.AF_INET: (socket.SOL_IP, 19), socket.AF_INET6: (socket.IPPROTO_IPV6, 75)}
# Addresses of nobody, behind the first node.
UNKNOWN = ("198.51.100.99", "2001:db8:99::99")
VIA = tuple(zip(UNKNOWN, NODES["node-1"], strict=False))


async def test_what_the_host_sends_with_a_foreign_source_is_judged(lab: Lab) -> None:
    """Services that a node proxies in user space, or by IPVS, leave it through `output`."""
    await lab.api.isolate("a", "on")
    await lab.api.policy(
        "a", "p", spec("back", rule(FRONT, ports=[{"port": PORT, "protocol": "UDP"}]))
    )
    await lab.settled()
    hosts, cluster, sent = lab.site.hosts, await lab.api.cluster(), []
    with packets.listening([hosts["back-1"]]) as ear:
        for name in ("front-1", "front-2", "other-1", "other-2", "outside", "node-1"):
            for source, target in zip(hosts[name].ips, BACK1.ips, strict=False):
                for port in (PORT, PORT + 1):
                    mark, flow = packets.mark(), Flow(source, target, "UDP", port)
                    proxied(lab.netns("node-1"), flow, mark)
                    allowed = policy.verdict(cluster, flow).allowed
                    sent.append((flow, mark, {"back-1"} if allowed else set()))
        marks, want = [mark for _, mark, _ in sent], [ends for _, _, ends in sent]
        arrived = await ear.arrived(marks, want=want)
    assert arrived == want
    passed = {flow for (flow, _, _), have in zip(sent, arrived, strict=True) if have}
    assert {flow.source for flow in passed} == {
        *(ip for name in ("front-1", "front-2") for ip in hosts[name].ips),
        *hosts["node-1"].ips[:2],
    }


def proxied(netns: str, flow: Flow, data: bytes) -> None:
    """Send a datagram with a source that is not the host's own."""
    family = socket.AF_INET6 if ":" in flow.source else socket.AF_INET
    assert flow.port is not None
    with socket_in(netns, family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(*TRANSPARENT[family], 1)
        sock.bind((flow.source, packets.CLIENT_PORT))
        with contextlib.suppress(PermissionError):  # how a sender hears of a drop in `output`
            sock.sendto(data, (flow.destination, flow.port))


BEHIND = """
table inet behind {{
  chain forward {{
    type filter hook forward priority 0; policy accept;
    ip daddr 198.51.100.99 ip daddr set {0}
    ip6 daddr 2001:db8:99::99 ip6 daddr set {1}
  }}
}}
"""
COPIES = """
table ip copies {{
  chain prerouting {{
    type filter hook prerouting priority -300; policy accept;
    ip daddr {0} dup to {0}
  }}
}}
table ip6 copies {{
  chain prerouting {{
    type filter hook prerouting priority -300; policy accept;
    ip6 daddr {1} dup to {1}
  }}
}}
"""


async def test_an_address_that_is_written_over_after_conntrack_reaches_no_isolated_pod(
    lab: Lab,
) -> None:
    node, hosts = lab.site.nodes["node-1"], lab.site.hosts
    device = node.links["back-1"]
    configure(node.node.netns, *(f"route add {ip} dev {device}" for ip in UNKNOWN))
    node.nft(BEHIND.format(*BACK1.ips))

    async def reached(want: set[str]) -> None:
        marks = []
        for name in ("other-1", "outside", "front-2"):
            for source, ip in zip(hosts[name].ips, UNKNOWN, strict=True):
                marks.append(packets.mark())
                data = packets.datagram(source, ip, PORT, marks[-1])
                made = ipv6 if ":" in ip else ipv4
                packets.send(hosts[name], [made(source, ip, packets.UDP, data)])
        wanted = [want] * len(marks)
        assert await ear.arrived(marks, want=wanted) == wanted

    try:
        configure(lab.netns("outside"), *(f"route add {ip} via {via}" for ip, via in VIA))
        configure(lab.netns("node-2"), *(f"route add {ip} via {via}" for ip, via in VIA))
        with packets.listening([hosts["back-1"]]) as ear:
            await reached({"back-1"})
            await lab.api.isolate("a", "on")
            await lab.api.policy("a", "p", spec("back", rule(FRONT)))
            await lab.settled()
            await reached(set())
    finally:
        node.nft("delete table inet behind\n")
        for name in ("outside", "node-2"):
            configure(lab.netns(name), *(f"route del {ip}" for ip in UNKNOWN))
        configure(node.node.netns, *(f"route del {ip} dev {device}" for ip in UNKNOWN))


async def test_copies_of_packets_are_judged_on_their_way_out(lab: Lab) -> None:
    node, hosts = lab.site.nodes["node-1"], lab.site.hosts

    async def copies(want: set[str]) -> int:
        mark = packets.mark()
        for source, ip in zip(OTHER1.ips, BACK1.ips, strict=True):
            made = ipv6 if ":" in ip else ipv4
            data = packets.datagram(source, ip, PORT, mark)
            packets.send(hosts["other-1"], [made(source, ip, packets.UDP, data)])
        await ear.arrived([mark], want=[want])
        return sum(mark in frame for _, frame in ear.heard)

    node.nft(COPIES.format(*BACK1.ips))
    try:
        with packets.listening([hosts["back-1"]]) as ear:
            assert await copies({"back-1"}) == 4
            await lab.api.isolate("a", "on")
            await lab.settled()
            assert await copies(set()) == 0
    finally:
        node.nft("delete table ip copies\ndelete table ip6 copies\n")


async def test_a_firewall_that_is_loaded_anew_opens_nothing(lab: Lab) -> None:
    """As firewalld and others do it: everything is flushed and written again."""
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", rule(FRONT, ports=[{"port": 80}])))
    probes = pairs(["front-1", "other-2", "outside"], [FRONT1, BACK1], [("tcp", 80), ("udp", 80)])
    before = await lab.check(probes)
    node = lab.site.nodes["node-1"]
    own = services.rules(SERVICES, "node-1")
    accept = (
        "table inet fw {\nchain forward {\ntype filter hook forward priority 0;\naccept\n}\n}\n"
    )
    try:
        for commands in (f"flush ruleset\n{accept}{own}", f"flush ruleset\n{own}"):
            node.nft(commands)
            open_ones = [probe for probe, passed in before.items() if passed]
            assert await lab.agents.probe(probes, patient=open_ones) == before
    finally:
        node.nft("delete table ip kube-proxy\ndelete table ip6 kube-proxy\n" + own)
