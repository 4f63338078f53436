"""Packets that are not what clients send are judged as well, or stay outside."""

import contextlib
import itertools
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

import policy
from policy import Flow
from tests.lab import packets, services
from tests.lab.inside import socket_in
from tests.lab.packets import extension, fragment, ipv4, ipv6
from tests.lab.site import NODES
from tests.lab.world import configure, sysctl
from tests.netns.conftest import rule, spec
from tests.netns.nodes.conftest import BACK1, BACK2, FRONT1, OTHER1, SERVICES, Lab, pairs

PORT = 9000
FRONT = {"pods": {"role": "front"}}
SOURCES = ("front-1", "front-2", "other-1", "other-2", "outside", "node-1", "node-2")
STATES: dict[str, dict[str, Any]] = {
    "a port": rule(FRONT, ports=[{"port": PORT, "protocol": "UDP"}]),
    "another port": rule(FRONT, ports=[{"port": PORT + 1, "protocol": "UDP"}]),
    "everything": rule(FRONT),
}
OTHERS = (("GRE", packets.GRE), ("ESP", packets.ESP), ("253", packets.UNKNOWN))
TRANSPARENT = {socket.AF_INET: (socket.SOL_IP, 19), socket.AF_INET6: (socket.IPPROTO_IPV6, 75)}

_IDENTITIES = itertools.count(1)
Made = tuple[str, bytes, list[bytes]]  # what the verdict is asked, a mark, and the packets of it


def odd4(source: str, target: str) -> Iterator[Made]:
    """Datagrams of IPv4 in fragments, in both orders, and with options; and odd protocols."""
    for cuts, turned in (((24,), False), ((24,), True), ((8, 32), False)):
        mark = packets.mark()
        # Many times, so that a fragment has it whole.
        data = packets.datagram(source, target, PORT, mark * 8)
        edges, number = [0, *cuts, len(data)], next(_IDENTITIES)
        made = [
            ipv4(
                source,
                target,
                packets.UDP,
                data[low:high],
                identity=number,
                offset=low,
                more=high < len(data),
            )
            for low, high in itertools.pairwise(edges)
        ]
        yield "UDP", mark, made[::-1] if turned else made
    mark = packets.mark()
    data = packets.datagram(source, target, PORT, mark)
    yield "UDP", mark, [ipv4(source, target, packets.UDP, data, options=bytes([1, 1, 1, 0]))]
    mark = packets.mark()
    data = packets.datagram(source, target, PORT, mark, packets.UDPLITE)
    yield "UDPLITE", mark, [ipv4(source, target, packets.UDPLITE, data)]
    for name, protocol in OTHERS:
        mark = packets.mark()
        yield name, mark, [ipv4(source, target, protocol, bytes(16) + mark)]


def odd6(source: str, target: str) -> Iterator[Made]:
    """Datagrams of IPv6 behind extension headers and in fragments; and odd protocols."""
    behind = (
        (packets.HOP_BY_HOP, extension(packets.DESTINATION) + extension(packets.UDP)),
        (packets.ROUTING, extension(packets.UDP, routing=True)),
        (packets.DESTINATION, extension(packets.DESTINATION) * 9 + extension(packets.UDP)),
    )
    for first, headers in behind:
        mark = packets.mark()
        data = packets.datagram(source, target, PORT, mark)
        yield "UDP", mark, [ipv6(source, target, first, headers + data)]
    for cuts, turned in (((), False), ((24,), False), ((24,), True), ((8, 32), False)):
        mark = packets.mark()
        data = packets.datagram(source, target, PORT, mark * 8)
        edges, number = [0, *cuts, len(data)], next(_IDENTITIES)
        parts = [
            fragment(
                packets.UDP, data[low:high], identity=number, offset=low, more=high < len(data)
            )
            for low, high in itertools.pairwise(edges)
        ]
        made = [ipv6(source, target, packets.FRAGMENT, part) for part in parts]
        yield "UDP", mark, made[::-1] if turned else made
    mark = packets.mark()
    data = packets.datagram(source, target, PORT, mark, packets.UDPLITE)
    yield "UDPLITE", mark, [ipv6(source, target, packets.UDPLITE, data)]
    for name, protocol in OTHERS:
        mark = packets.mark()
        yield name, mark, [ipv6(source, target, protocol, bytes(16) + mark)]


@pytest.fixture
def unchecked(lab: Lab) -> Iterator[None]:
    """Conntrack finds the checksum of every datagram of UDP-lite wrong; let it not look."""
    netns = [node.node.netns for node in lab.site.nodes.values()]
    for name in netns:
        sysctl(name, {"net.netfilter.nf_conntrack_checksum": "0"})
    yield
    for name in netns:
        sysctl(name, {"net.netfilter.nf_conntrack_checksum": "1"})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("state", STATES)
async def test_D35_odd_packets_come_in_by_policy_or_not_at_all(lab: Lab, state: str) -> None:
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", STATES[state]))
    await lab.settled()
    cluster, hosts, sent = await lab.api.cluster(), lab.site.hosts, []
    ends = [
        (name, pod.name, odd, source, target)
        for name in SOURCES
        for pod in (BACK1, BACK2)
        for odd, source, target in zip((odd4, odd6), hosts[name].ips, pod.ips, strict=False)
    ]
    with packets.listening([hosts["back-1"], hosts["back-2"]]) as ear:
        for name, pod_name, odd, source, target in ends:
            for protocol, mark, made in odd(source, target):
                packets.send(hosts[name], made)
                flow = Flow(source, target, protocol, PORT)
                allowed = policy.verdict(cluster, flow).allowed
                sent.append((flow, mark, {pod_name} if allowed else set()))
        arrived = await ear.all_arrived([mark for _, mark, _ in sent])
    wrong = [
        (flow, have) for (flow, _, want), have in zip(sent, arrived, strict=True) if have != want
    ]
    assert not wrong


async def test_D35_what_belongs_to_no_datagram_stays_outside(lab: Lab) -> None:
    """The end of a datagram without its beginning, headers with nothing behind, forged errors."""
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", STATES["everything"]))
    await lab.settled()
    hosts, sent = lab.site.hosts, []
    with packets.listening([hosts["back-1"], hosts["back-2"]]) as ear:
        for name in SOURCES[:5]:
            for pod in (BACK1, BACK2):
                (own4, own6), (ip4, ip6) = hosts[name].ips[:2], pod.ips
                mark, end = packets.mark(), next(_IDENTITIES)
                last = fragment(packets.UDP, mark, identity=end, offset=64, more=False)
                inside = packets.datagram(ip4, own4, PORT, mark)
                error = struct.pack("!BBHHH", 3, 4, 0, 0, 1300)
                error += ipv4(ip4, own4, packets.UDP, inside)
                checked = error[:2] + struct.pack("!H", packets.checksum(error)) + error[4:]
                packets.send(
                    hosts[name],
                    [
                        ipv4(own4, ip4, packets.UDP, mark, identity=end, offset=64),
                        ipv6(own6, ip6, packets.FRAGMENT, last),
                        ipv6(own6, ip6, packets.NOTHING, mark),
                        ipv4(own4, ip4, packets.ICMP, checked),
                    ],
                )
                sent.append(mark)
        assert not any(await ear.all_arrived(sent))


# No flags, FIN, SYN, RST, ACK, SYN and ACK, SYN and FIN, data in the middle, all at once.
FLAGS = (0x00, 0x01, 0x02, 0x04, 0x10, 0x12, 0x03, 0x18, 0x3F)


async def test_segments_and_replies_of_no_connection_stay_outside(lab: Lab) -> None:
    """From those who may not connect, twice: conntrack may pick up what it has seen once."""
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", STATES["everything"]))
    await lab.settled()
    hosts, marks = lab.site.hosts, []
    ends = [
        (name, source, target)
        for name in ("other-1", "other-2", "outside")
        for pod in (BACK1, BACK2)
        for source, target in zip(hosts[name].ips, pod.ips, strict=True)
    ]
    with packets.listening([hosts["back-1"], hosts["back-2"]]) as ear:
        for name, source, target in ends * 2:
            marks.append(packets.mark())
            made = ipv6 if ":" in source else ipv4
            echo = packets.ICMPV6 if ":" in source else packets.ICMP
            sent = [
                made(
                    source,
                    target,
                    packets.TCP,
                    packets.segment(source, target, 80, flags, marks[-1]),
                )
                for flags in FLAGS
            ]
            for reply in (True, False):
                data = packets.echo(source, target, reply=reply, data=marks[-1])
                sent.append(made(source, target, echo, data))
            packets.send(hosts[name], sent)
        assert not any(await ear.all_arrived(marks))
        # From a friend the same is not lost on the way.
        name, source, target = "front-1", FRONT1.ips[0], BACK2.ips[0]
        mark = packets.mark()
        data = packets.echo(source, target, reply=False, data=mark)
        packets.send(hosts[name], [ipv4(source, target, packets.ICMP, data)])
        assert await ear.arrived(mark) == {"back-2"}


async def test_D35_an_sctp_association_begins_by_policy(lab: Lab) -> None:
    await lab.api.isolate("a", "on")
    begins = pairs(kinds=[("sctp", 80), ("sctp", 81)])
    await lab.check(begins)
    await lab.api.policy("a", "p", spec("back", rule(FRONT, ports=[{"port": 80}])))
    await lab.check(begins)
    ports = [{"port": 80, "protocol": "SCTP"}]
    await lab.api.policy("a", "q", spec("back", rule(FRONT, ports=ports)))
    have = await lab.check(begins)
    assert {p.source for p, passed in have.items() if passed} >= {"front-1", "front-2"}


async def test_what_the_host_sends_with_a_foreign_source_is_judged(lab: Lab) -> None:
    """Services that a node proxies in user space, or by IPVS, leave it through `output`."""
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", STATES["a port"]))
    await lab.settled()
    hosts, cluster, sent = lab.site.hosts, await lab.api.cluster(), []
    with packets.listening([hosts["back-1"]]) as ear:
        for name in SOURCES[:6]:
            for source, target in zip(hosts[name].ips, BACK1.ips, strict=False):
                for port in (PORT, PORT + 1):
                    mark, flow = packets.mark(), Flow(source, target, "UDP", port)
                    proxied(lab.netns("node-1"), flow, mark)
                    sent.append((flow, mark, policy.verdict(cluster, flow).allowed))
        arrived = await ear.all_arrived([mark for _, mark, _ in sent])
    passed = {flow for (flow, _, _), have in zip(sent, arrived, strict=True) if have}
    assert passed == {flow for flow, _, allowed in sent if allowed}
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
    node, unknown = lab.site.nodes["node-1"], ("198.51.100.99", "2001:db8:99::99")
    hosts = lab.site.hosts
    device = node.links["back-1"]
    configure(node.node.netns, *(f"route add {ip} dev {device}" for ip in unknown))
    node.nft(BEHIND.format(*BACK1.ips))

    async def reached() -> list[set[str]]:
        marks = []
        for name in ("other-1", "outside", "front-2"):
            for source, ip in zip(hosts[name].ips, unknown, strict=True):
                marks.append(packets.mark())
                data = packets.datagram(source, ip, PORT, marks[-1])
                made = ipv6 if ":" in ip else ipv4
                packets.send(hosts[name], [made(source, ip, packets.UDP, data)])
        return await ear.all_arrived(marks)

    try:
        configure(lab.netns("outside"), *(f"route add {ip} via {via}" for ip, via in VIA))
        configure(lab.netns("node-2"), *(f"route add {ip} via {via}" for ip, via in VIA))
        with packets.listening([hosts["back-1"]]) as ear:
            assert await reached() == [{"back-1"}] * 6
            await lab.api.isolate("a", "on")
            await lab.api.policy("a", "p", spec("back", STATES["everything"]))
            await lab.settled()
            assert await reached() == [set()] * 6
    finally:
        node.nft("delete table inet behind\n")
        for name in ("outside", "node-2"):
            configure(lab.netns(name), *(f"route del {ip}" for ip in unknown))
        configure(node.node.netns, *(f"route del {ip} dev {device}" for ip in unknown))


VIA = tuple(zip(("198.51.100.99", "2001:db8:99::99"), NODES["node-1"], strict=False))


async def test_copies_of_packets_are_judged_on_their_way_out(lab: Lab) -> None:
    node, hosts = lab.site.nodes["node-1"], lab.site.hosts

    async def copies() -> int:
        mark = packets.mark()
        for source, ip in zip(OTHER1.ips, BACK1.ips, strict=True):
            made = ipv6 if ":" in ip else ipv4
            data = packets.datagram(source, ip, PORT, mark)
            packets.send(hosts["other-1"], [made(source, ip, packets.UDP, data)])
        await ear.arrived(mark)
        return sum(mark in frame for _, frame in ear.heard)

    node.nft(COPIES.format(*BACK1.ips))
    try:
        with packets.listening([hosts["back-1"]]) as ear:
            assert await copies() == 4
            await lab.api.isolate("a", "on")
            await lab.settled()
            assert await copies() == 0
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
            assert await lab.agents.probe(probes) == before
    finally:
        node.nft("delete table ip kube-proxy\ndelete table ip6 kube-proxy\n" + own)
