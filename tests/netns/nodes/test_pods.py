"""Who is who, on two nodes: pods that come and go, nodes, and both families alike."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from tests.lab import services
from tests.lab.agents import ALLOWED_WITHIN, DENIED_AFTER, Probe
from tests.lab.cluster import PodSpec
from tests.lab.site import NODES
from tests.lab.world import GATEWAY4, configure
from tests.netns.conftest import rule, spec
from tests.netns.nodes.conftest import BACK1, BACK2, FRONT1, FRONT2, PODS, Lab, pairs

FRONT = {"pods": {"role": "front"}}
KINDS = (("tcp", 80), ("tcp", 81), ("udp", 80), ("sctp", 80), ("icmp", 0))
STATES: dict[str, list[dict[str, Any]]] = {
    "no policy": [],
    "pods on a port": [spec("back", rule(FRONT, ports=[{"port": 80}]))],
    "namespaces and whole protocols": [
        spec(None, rule({"namespaces": {"team": "b"}}, ports=[{"protocol": "UDP"}])),
        spec("front", rule({"namespaces": {}}, ports=[{"port": "web"}, {"protocol": "SCTP"}])),
    ],
    "anyone's echo requests": [spec(None, rule(ports=[{"protocol": "ICMP"}]))],
}


@pytest.mark.parametrize("state", STATES)
async def test_D27_both_families_are_judged_alike_between_all_nodes(lab: Lab, state: str) -> None:
    for number, item in enumerate(STATES[state]):
        await lab.api.policy("a", f"p{number}", item)
    await lab.api.isolate("a", "on")
    have = await lab.check(pairs(kinds=KINDS))
    for pod in PODS:
        four, six = (
            {(p.source, p.protocol, p.port): ok for p, ok in have.items() if p.address == ip}
            for ip in pod.ips
        )
        assert four == six


async def test_D15_a_deletion_that_comes_after_the_next_pod_takes_nothing_from_it(
    lab: Lab,
) -> None:
    """An address of `a` goes on to `b`, whose pod is there before the other's end is heard."""
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", rule(FRONT)))
    probes = [
        *pairs(["front-1"], [BACK1, BACK2], [("tcp", 80)]),
        *pairs(["outside"], [FRONT1], [("tcp", 80)]),
    ]
    before = await lab.check(probes)
    await later(lab, "b", "next", FRONT1, {"role": "front"})
    after = await lab.check(probes)
    assert {p: not passed for p, passed in before.items()} == after
    await lab.api.delete("/api/v1/namespaces/a/pods/front-1")
    assert await lab.check(probes) == after


async def later(lab: Lab, namespace: str, name: str, pod: PodSpec, labels: dict[str, str]) -> None:
    """A pod with the addresses of another one, that has started long after it."""
    await lab.api.pod(PodSpec(namespace, name, labels, (), pod.ports, pod.fields))
    found = {
        "phase": "Running",
        "startTime": "2099-01-01T00:00:00Z",
        "podIPs": [{"ip": ip} for ip in pod.ips],
    }
    await lab.api.patch(f"/api/v1/namespaces/{namespace}/pods/{name}/status", {"status": found})


async def test_D17_a_terminating_pod_keeps_its_roles_until_it_is_gone(lab: Lab) -> None:
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", rule(FRONT, ports=[{"port": 80}])))
    as_target = pairs(["front-1", "other-1", "outside"], [BACK2])
    as_peer = pairs(["front-2"], [BACK1])
    before = await lab.check([*as_target, *as_peer])
    paths = [f"/api/v1/namespaces/a/pods/{pod.name}" for pod in (BACK2, FRONT2)]
    for path in paths:
        await lab.api.patch(path, {"metadata": {"finalizers": ["example.org/not-yet"]}})
        held = await lab.api.delete(path)
        assert held["metadata"]["deletionTimestamp"]
    assert await lab.check([*as_target, *as_peer]) == before
    for path in paths:
        await lab.api.patch(path, {"metadata": {"finalizers": None}})
    assert not any((await lab.check(as_peer)).values())
    # The address itself is one of the node's range and of no pod.
    assert not any((await lab.agents.probe(as_target)).values())


async def test_D18_of_two_pods_with_one_address_the_newest_has_its_rights_alone(lab: Lab) -> None:
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", rule(FRONT)))
    await lab.api.policy("a", "q", spec("late", rule({"namespaces": {"team": "b"}})))
    probes = [*pairs(["other-1", "front-1"], [BACK2]), *pairs(["back-2"], [BACK1])]
    await later(lab, "a", "late", BACK2, {"role": "late"})
    have = await lab.check(probes)
    assert {p.source for p, passed in have.items() if passed} == {"other-1"}
    async with httpx.AsyncClient(trust_env=False) as http:
        metrics = (await http.get(f"{lab.enforcers['node-2'].url}/metrics")).text
    assert "netpol_enforcer_address_conflicts 2.0" in metrics.splitlines()
    await lab.api.delete("/api/v1/namespaces/a/pods/late")
    have = await lab.check(probes)
    assert {p.source for p, passed in have.items() if passed} == {"front-1"}


async def test_D19_a_host_network_pod_is_its_node_and_neither_target_nor_peer(lab: Lab) -> None:
    """It says that it is a front and in an isolated namespace; its addresses are the node's."""
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", rule(FRONT, {"namespaces": {}})))
    for name, ips in NODES.items():
        fields = {"nodeName": name, "hostNetwork": True}
        await lab.api.pod(PodSpec("a", f"host-{name}", {"role": "front"}, ips[:2], (), fields))
    peers = await lab.check(pairs(list(NODES), [BACK1, BACK2]))
    passed = {(p.source, p.address) for p, passed in peers.items() if passed}
    own = {("node-1", ip) for ip in BACK1.ips} | {("node-2", ip) for ip in BACK2.ips}
    assert passed == own
    targets = [
        Probe(source, ip, "tcp", 80)
        for source in ("outside", "front-1", "other-2")
        for ips in NODES.values()
        for ip in ips[:2]
    ]
    assert all((await lab.check(targets)).values())


async def test_D20_a_node_reaches_its_own_pods_from_each_of_its_addresses(lab: Lab) -> None:
    await lab.api.isolate("a", "on")
    await lab.settled()

    async def reached(node: str, pods: Sequence[PodSpec], seconds: float) -> set[str]:
        own_ips = [*NODES[node], *([GATEWAY4] if node == "node-1" else [])]
        ends = [(own, ip) for own in own_ips for pod in pods for ip in pod.ips]
        return set(
            await asyncio.gather(
                *(
                    lab.agents.ask(
                        node, do=kind, address=ip, port=port, source=own, timeout=seconds
                    )
                    for own, ip in ends
                    if (":" in own) == (":" in ip)
                    for kind, port in KINDS
                )
            )
        )

    assert await reached("node-1", [FRONT1, BACK1], ALLOWED_WITHIN) == {"open"}
    assert await reached("node-2", [FRONT2, BACK2], ALLOWED_WITHIN) == {"open"}
    assert await reached("node-1", [FRONT2, BACK2], DENIED_AFTER) == {"silent"}


async def test_D24_a_smaller_link_on_the_way_is_heard_of_by_an_isolated_pod(lab: Lab) -> None:
    """The first node says that its link to the client takes less than the second's pod sends."""
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", rule(FRONT, ports=[{"port": 80}])))
    await lab.settled()
    node = lab.site.nodes["node-1"]
    link = f"link set {node.links['front-1']} mtu"
    configure(node.node.netns, f"{link} 1300")
    try:
        outcomes = await asyncio.gather(
            *(
                lab.agents.ask("front-1", do="bulk", address=ip, port=80, timeout=10.0)
                for ip in BACK2.ips
            )
        )
        assert outcomes == ["open", "open"]
        for ip in FRONT1.ips:
            assert "mtu 1300" in await route(lab, "back-2", ip)
    finally:
        configure(node.node.netns, f"{link} 1500")


async def route(lab: Lab, host: str, address: str) -> str:
    """What a host knows of the way to an address."""
    process = await asyncio.create_subprocess_exec(
        *("ip", "-n", lab.netns(host), "route", "get", address), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return output.decode()


MASQUERADE = """
table {ip} outgoing {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    {ip} saddr {range} {ip} daddr != {range} masquerade
  }}
}}
"""


async def test_D28_an_isolated_pod_reaches_everybody_who_is_open_on_every_node(lab: Lab) -> None:
    """Also where what leaves for the world outside is masqueraded."""
    await lab.api.isolate("a", "on")
    sources = ("back-1", "back-2")
    probes = pairs(sources, [pod for pod in PODS if pod.namespace == "b"], KINDS)
    for ips in (*NODES.values(), lab.site.outside.ips):
        probes += [
            Probe(source, ip, kind, port)
            for source in sources
            for ip in ips[:2]
            for kind, port in (("tcp", 80), ("icmp", 0))
        ]
    assert all((await lab.check(probes)).values())
    outside = [
        Probe(source, ip, kind, port)
        for source in sources
        for ip in lab.site.outside.ips
        for kind, port in KINDS
    ]
    for node in lab.site.nodes.values():
        node.nft(
            MASQUERADE.format(ip="ip", range=services.PODS[4])
            + MASQUERADE.format(ip="ip6", range=services.PODS[6])
        )
    try:
        assert all((await lab.check(outside)).values())
    finally:
        for node in lab.site.nodes.values():
            node.nft("delete table ip outgoing\ndelete table ip6 outgoing\n")
