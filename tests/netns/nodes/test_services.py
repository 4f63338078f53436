"""A Service is judged as the pod behind it: on the pod's port, and on who came, not as whom."""

from collections.abc import Mapping

from tests.lab.agents import Probe
from tests.lab.site import NODES
from tests.netns.conftest import rule, spec
from tests.netns.nodes.conftest import SERVICES, SOURCES, Lab

FRONT = {"pods": {"role": "front"}}
PROTOCOLS = ("tcp", "udp", "sctp")
EVERY_PROTOCOL = [{"port": 80, "protocol": name} for name in PROTOCOLS]


def cluster_ips() -> list[Probe]:
    """From everybody to each Service, in both families."""
    return [
        Probe(source, ip, protocol, service.port)
        for service in SERVICES
        for source in SOURCES
        for ip in service.ips
        for protocol in PROTOCOLS
    ]


def node_ports() -> list[Probe]:
    """From everybody to each Service by each node, in both families."""
    return [
        Probe(source, ip, protocol, service.node_port)
        for service in SERVICES
        for source in SOURCES
        for ips in NODES.values()
        for ip in ips[:2]
        for protocol in PROTOCOLS
    ]


def hairpins(have: Mapping[Probe, bool]) -> list[bool]:
    """Whether the pods behind the Services reach themselves by them."""
    own = {(s.name, ip) for s in SERVICES for ip in s.ips}
    return [passed for probe, passed in have.items() if (probe.source, probe.address) in own]


async def test_D21_a_service_is_judged_on_the_pods_port_and_the_client(lab: Lab) -> None:
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", rule(FRONT, ports=EVERY_PROTOCOL)))
    have = await lab.check(cluster_ips())
    clients = {"front-1", "front-2"}
    assert all(passed for probe, passed in have.items() if probe.source in clients)
    passed = {probe.source for probe, passed in have.items() if passed}
    assert passed == clients | {"back-1", "back-2", *NODES}

    await lab.api.drop_policy("a", "p")
    await lab.api.policy("a", "service-port", spec("back", rule(FRONT, ports=[{"port": 8100}])))
    have = await lab.check(cluster_ips())
    assert not any(passed for probe, passed in have.items() if probe.source in clients)

    await lab.api.policy("a", "by-name", spec("back", rule(FRONT, ports=[{"port": "web"}])))
    have = await lab.check(cluster_ips())
    by_name = {(p.source, p.protocol) for p, ok in have.items() if ok and p.source in clients}
    assert by_name == {("front-1", "tcp"), ("front-2", "tcp")}


async def test_D22_a_pod_reaches_itself_by_its_own_service(lab: Lab) -> None:
    await lab.api.isolate("a", "on")
    reached = hairpins(await lab.check(cluster_ips()))
    assert len(reached) == 2 * 2 * 3
    assert all(reached)


async def test_D23_a_node_port_is_judged_on_who_comes_before_masquerading(lab: Lab) -> None:
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", rule(FRONT, ports=EVERY_PROTOCOL)))
    have = await lab.check(node_ports())
    assert not any(passed for probe, passed in have.items() if probe.source == "outside")
    # By the pod's own node the client is known, by the other one it is hidden.
    by = {
        probe.address: passed
        for probe, passed in have.items()
        if probe.source == "front-2" and probe.port == SERVICES[0].node_port
    }
    first, second = NODES["node-1"][:2], NODES["node-2"][:2]
    assert by == dict.fromkeys(first, True) | dict.fromkeys(second, False)

    await lab.api.policy("a", "anyone", spec("back", rule(ports=EVERY_PROTOCOL)))
    assert all((await lab.check(node_ports())).values())
