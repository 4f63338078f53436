"""Packets that are not what clients send are judged as well, or stay outside."""

import itertools
import struct
from collections.abc import Iterator
from typing import Any

import pytest

import policy
from policy import Flow
from tests.lab import packets
from tests.lab.packets import extension, fragment, ipv4, ipv6
from tests.lab.site import NODES
from tests.lab.world import sysctl
from tests.netns.conftest import rule, spec
from tests.netns.nodes.conftest import BACK1, BACK2, FRONT1, Lab, pairs

PORT = 9000
FRONT = {"pods": {"role": "front"}}
SOURCES = ("front-1", "front-2", "other-1", "other-2", "outside", "node-1", "node-2")
STATES: dict[str, dict[str, Any]] = {
    "a port": rule(FRONT, ports=[{"port": PORT, "protocol": "UDP"}]),
    "another port": rule(FRONT, ports=[{"port": PORT + 1, "protocol": "UDP"}]),
    "everything": rule(FRONT),
}
OTHERS = (("GRE", packets.GRE), ("ESP", packets.ESP), ("253", packets.UNKNOWN))

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
        marks, want = [mark for _, mark, _ in sent], [names for _, _, names in sent]
        arrived = await ear.arrived(marks, want=want)
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
        assert not any(await ear.arrived(sent))


async def test_the_nodes_own_addresses_open_nothing_to_others(lab: Lab) -> None:
    """Its exemption is for what it sends; that a pod writes another's address is for others."""
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", STATES["everything"]))
    await lab.settled()
    hosts, node = lab.site.hosts, lab.netns("node-1")

    async def reached(ends: list[tuple[str, str, str]], want: set[str]) -> None:
        marks = []
        for name, source, target in ends:
            marks.append(packets.mark())
            made = ipv6 if ":" in source else ipv4
            data = packets.datagram(source, target, PORT, marks[-1])
            packets.send(hosts[name], [made(source, target, packets.UDP, data)])
        wanted = [want] * len(marks)
        assert await ear.arrived(marks, want=wanted) == wanted

    with packets.listening([hosts["back-1"], hosts["back-2"]]) as ear:
        false = [
            (name, source, target)
            for name in ("other-1", "other-2", "outside")
            for own, pod in ((NODES["node-1"], BACK1), (NODES["node-2"], BACK2))
            for source in own
            for target in pod.ips
            if (":" in source) == (":" in target)
        ]
        await reached(false, set())
        another = [("other-1", FRONT1.ips[0], BACK1.ips[0])]
        await reached(another, {"back-1"})
        sysctl(node, {"net.ipv4.conf.all.rp_filter": "1"})
        try:
            await reached(another, set())
        finally:
            sysctl(node, {"net.ipv4.conf.all.rp_filter": "0"})


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
        assert not any(await ear.arrived(marks))
        # From a friend the same is not lost on the way.
        name, source, target = "front-1", FRONT1.ips[0], BACK2.ips[0]
        mark = packets.mark()
        data = packets.echo(source, target, reply=False, data=mark)
        packets.send(hosts[name], [ipv4(source, target, packets.ICMP, data)])
        assert await ear.arrived([mark], want=[{"back-2"}]) == [{"back-2"}]


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
