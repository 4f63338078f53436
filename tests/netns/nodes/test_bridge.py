"""Pods at one Linux bridge: what they need of each other's links passes, and nothing else does."""

import asyncio
import json
import socket
import struct
from pathlib import Path
from typing import Any

import httpx

from tests.lab import packets
from tests.lab.inside import socket_in, within
from tests.lab.processes import EnforcerProcess
from tests.lab.world import BRIDGE, Host
from tests.netns.conftest import rule, spec
from tests.netns.nodes.conftest import BACK2, FRONT2, Lab, pairs

PORT = 9000
FRONT = {"pods": {"role": "front"}}
# MLD query, report, done; solicitations and advertisements of routers and neighbours; redirect;
# report of MLDv2.
NEIGHBOURS = (130, 131, 132, 133, 134, 135, 136, 137, 143)
ECHO_REQUEST = 128
# Every host, and every host whose address ends as that of `back-2`; the last one is broadcast.
FOR_ALL = ("224.0.0.1", "ff02::1", "ff02::1:ff00:12", "255.255.255.255")


def number_of(host: Host, device: str) -> int:
    """The index of a device in a namespace."""
    return within(host.netns, lambda: socket.if_nametoindex(device))


def icmp6(host: Host, device: str, kind: int, address: str, data: bytes) -> None:
    """Send an ICMPv6 message of a type; the kernel adds the checksum."""
    with socket_in(host.netns, socket.AF_INET6, socket.SOCK_RAW, packets.ICMPV6) as sock:
        for option in (socket.IPV6_UNICAST_HOPS, socket.IPV6_MULTICAST_HOPS):
            sock.setsockopt(socket.IPPROTO_IPV6, option, 255)
        message = struct.pack("!BBHI", kind, 0, 0, 0) + bytes(16) + data
        sock.sendto(message, (address, 0, 0, number_of(host, device)))


def to_all(host: Host, device: str, address: str, data: bytes, *, igmp: bool = False) -> None:
    """Send a datagram to a group or by broadcast; or an IGMP message of no known type."""
    six, number = ":" in address, number_of(host, device)
    family = socket.AF_INET6 if six else socket.AF_INET
    kind = (socket.SOCK_RAW, socket.IPPROTO_IGMP) if igmp else (socket.SOCK_DGRAM, 0)
    with socket_in(host.netns, family, *kind) as sock:
        if igmp:
            data = b"\x1f\0\0\0" + data
            data = data[:2] + struct.pack("!H", packets.checksum(data)) + data[4:]
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        sock.sendto(data, (address, PORT, 0, number) if six else (address, 0 if igmp else PORT))


async def ip(host: Host, *arguments: str) -> list[dict[str, Any]]:
    """What `ip` says of a namespace."""
    command = ("ip", "-json", "-n", host.netns, *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    found: list[dict[str, Any]] = json.loads(output or b"[]")
    return found


async def link_local(host: Host) -> str:
    """The pod's own one."""
    found = await ip(host, "-6", "addr", "show", "dev", "eth0", "scope", "link")
    (address,) = (one["local"] for device in found for one in device.get("addr_info", ()) if one)
    return str(address)


async def by_link(lab: Lab) -> list[str]:
    """How a friend, a stranger and the node fare at the address of the link of `back-2`."""
    address = await link_local(lab.site.hosts["back-2"])
    sources = {"front-2": "eth0", "other-2": "eth0", "node-2": BRIDGE}
    return await asyncio.gather(
        *(
            lab.agents.ask(name, do="tcp", address=f"{address}%{device}", port=80, timeout=1.0)
            for name, device in sources.items()
        )
    )


async def by_group(lab: Lab, source: str, device: str, *, want: set[str]) -> None:
    """Check which datagrams and messages for every host of a link come to `back-2`."""
    hosts, marks = lab.site.hosts, {}
    with packets.listening([hosts["back-2"]]) as ear:
        for address in FOR_ALL:
            marks[address] = packets.mark()
            to_all(hosts[source], device, address, marks[address])
        marks["igmp"] = packets.mark()
        to_all(hosts[source], device, FOR_ALL[0], marks["igmp"], igmp=True)
        wanted = [{"back-2"} if address in want else set() for address in marks]
        assert await ear.arrived(list(marks.values()), want=wanted) == wanted


async def test_D26_neighbours_routers_and_groups_are_never_filtered(lab: Lab) -> None:
    await lab.api.isolate("a", "on")
    await lab.settled()
    hosts, sent = lab.site.hosts, {}
    node = hosts["node-2"]
    want = []
    with packets.listening([hosts["back-2"]]) as ear:
        for source, device in ((hosts["other-2"], "eth0"), (node, BRIDGE)):
            for address in ("ff02::1", BACK2.ips[1]):
                for kind in (*NEIGHBOURS, ECHO_REQUEST):
                    mark = packets.mark()
                    icmp6(source, device, kind, address, mark)
                    sent[mark] = source.name, address, kind
                    passes = source is node or kind != ECHO_REQUEST
                    want.append({"back-2"} if passes else set())
        arrived = await ear.arrived(list(sent), want=want)
    wrong = [
        (what, have)
        for what, have, wanted in zip(sent.values(), arrived, want, strict=True)
        if have != wanted
    ]
    assert not wrong


async def test_D26_addresses_are_resolved_whoever_may_speak(lab: Lab) -> None:
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", rule(FRONT, ports=[{"port": 80}])))
    hosts = lab.site.hosts
    for name in ("front-2", "other-2", "back-2", "node-2"):
        await ip(hosts[name], "-6", "neigh", "flush", "all")
    have = await lab.check(pairs(["front-2", "other-2", "node-2", "front-1"], [BACK2]))
    assert {p.source for p, passed in have.items() if passed} == {"front-2", "node-2", "front-1"}
    for name in ("front-2", "other-2"):
        (known,) = await ip(hosts[name], "-6", "neigh", "show", "to", BACK2.ips[1])
        assert known["lladdr"]


async def test_D26_a_pod_is_not_reached_by_addresses_of_its_link(lab: Lab) -> None:
    """Nobody knows whose they are: with a range for IPv6 they are closed, but for the node."""
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", rule(FRONT, ports=[{"port": 80}])))
    await lab.settled()
    assert await by_link(lab) == ["silent", "silent", "open"]


async def test_D26_what_is_for_every_host_of_a_link_comes_from_the_node_alone(lab: Lab) -> None:
    """But the questions for their groups may come from anywhere."""
    await lab.api.isolate("a", "on")
    await lab.settled()
    await by_group(lab, "node-2", BRIDGE, want={*FOR_ALL, "igmp"})
    await by_group(lab, "other-2", "eth0", want={"igmp"})


async def readiness(enforcer: EnforcerProcess) -> tuple[int, str]:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{enforcer.url}/readyz")
        return answer.status_code, answer.text


async def test_D29_a_bridge_that_asks_nobody_makes_the_node_unready(
    lab: Lab, tmp_path: Path
) -> None:
    """And what an enforcer that knows no range of its pods leaves open, as is documented."""
    await lab.api.isolate("a", "on")
    await lab.settled()
    node, old = lab.site.nodes["node-2"], lab.enforcers["node-2"]
    enforcer = EnforcerProcess(
        tmp_path,
        server=lab.server.url,
        netns=node.node.netns,
        arguments=["--node-name", "node-2"],
    )
    probes = pairs(["other-2"], [FRONT2, BACK2])
    await old.stop()
    node.bridge_calls(on=False)
    try:
        await enforcer.start()
        async with asyncio.timeout(5):
            while (found := await readiness(enforcer))[1].count("bypass") == 0:
                await asyncio.sleep(0.05)
        status, text = found
        assert status == 500
        assert "net.bridge.bridge-nf-call-iptables" in text
        assert all((await lab.agents.probe(probes, patient=probes)).values())
        node.bridge_calls(on=True)
        assert not any((await lab.agents.probe(probes)).values())
        assert await by_link(lab) == ["open", "open", "open"]
        await by_group(lab, "other-2", "eth0", want={*FOR_ALL, "igmp"})
        async with asyncio.timeout(15):
            while (await readiness(enforcer))[0] != 200:
                await asyncio.sleep(0.05)
    finally:
        node.bridge_calls(on=True)
        await enforcer.stop()
        await old.start()
    assert await by_link(lab) == ["silent", "silent", "open"]
