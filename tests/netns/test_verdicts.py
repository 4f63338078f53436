"""The kernel says what the reference verdict says: every pair, with real packets."""

from dataclasses import replace
from typing import Any

import pytest

from tests.lab.agents import Probe
from tests.netns.conftest import PODS, Lab, everything, rule, spec

FRONT, BACK, OTHER = PODS
TCP80 = {"port": 80}
PODS_FRONT = {"pods": {"role": "front"}}

STATES: dict[str, list[dict[str, Any]]] = {
    "no policy": [],
    "allows nothing": [spec("back")],
    "pods on a port": [spec("back", rule(PODS_FRONT, ports=[TCP80]))],
    "pods on every port": [spec("back", rule(PODS_FRONT))],
    "namespaces": [spec("back", rule({"namespaces": {"team": "b"}}))],
    "every pod of the cluster": [spec(None, rule({"namespaces": {}}, ports=[TCP80]))],
    "every pod of the namespace": [spec("back", rule({"pods": {}}))],
    "anyone on a port": [spec("back", rule(ports=[{"port": 81}]))],
    "anyone": [spec("back", {})],
    "a named port": [spec("back", rule(PODS_FRONT, ports=[{"port": "web"}]))],
    "a narrow range": [spec("back", rule(ports=[{"port": "80:90"}]))],
    "a wide range": [spec("back", rule(PODS_FRONT, ports=[{"port": "81:9000"}]))],
    "UDP": [spec("back", rule(ports=[{"port": 80, "protocol": "UDP"}]))],
    "SCTP": [spec("back", rule(PODS_FRONT, ports=[{"port": 80, "protocol": "SCTP"}]))],
    "a whole protocol": [spec("back", rule(PODS_FRONT, ports=[{"protocol": "TCP"}]))],
    "ICMP": [spec(None, rule(ports=[{"protocol": "ICMP"}]))],
    "policies add up": [
        spec("back", rule(PODS_FRONT, ports=[TCP80])),
        spec(None, rule({"namespaces": {"team": "b"}}, ports=[{"port": 81}])),
        spec("back", rule(ports=[{"protocol": "ICMP"}])),
    ],
}


@pytest.mark.parametrize("state", STATES)
async def test_every_pair_is_judged_as_the_verdict_says(lab: Lab, state: str) -> None:
    for number, item in enumerate(STATES[state]):
        await lab.api.policy("a", f"p{number}", item)
    await lab.api.isolate("a", "on")
    await lab.check()


async def test_D20_the_node_reaches_its_pods_on_every_protocol(lab: Lab) -> None:
    await lab.api.isolate("a", "on")
    have = await lab.check()
    assert all(passed for probe, passed in have.items() if probe.source == "node")


async def test_D25_echo_requests_are_ordinary_traffic(lab: Lab) -> None:
    await lab.api.isolate("a", "on")
    echo = [Probe("front", ip, "icmp", 0) for ip in BACK.ips]
    assert set((await lab.check(echo)).values()) == {False}
    await lab.api.policy("a", "p", spec("back", rule(PODS_FRONT)))
    assert set((await lab.check(echo)).values()) == {True}
    await lab.api.drop_policy("a", "p")
    await lab.api.policy("a", "p", spec("back", rule(PODS_FRONT, ports=[TCP80])))
    assert set((await lab.check(echo)).values()) == {False}


async def test_D28_an_isolated_pod_reaches_everybody_who_is_open(lab: Lab) -> None:
    await lab.api.isolate("a", "on")
    have = await lab.check()
    leaving = [ok for p, ok in have.items() if p.source == "front" and p.address in OTHER.ips]
    assert leaving
    assert all(leaving)


async def test_D40_isolation_goes_on_and_off_at_once_and_audit_drops_nothing(lab: Lab) -> None:
    await lab.api.policy("a", "p", spec("back", rule(PODS_FRONT, ports=[TCP80])))
    for value, closed in (("on", True), ("off", False), ("audit", False), ("on", True)):
        await lab.api.isolate("a", value)
        have = await lab.check()
        assert (not all(have.values())) is closed
    assert all(have[p] for p in have if p.address in OTHER.ips)


async def test_changes_of_labels_move_pods_in_and_out(lab: Lab) -> None:
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", rule(PODS_FRONT, ports=[TCP80])))
    probe = Probe("front", BACK.ips[0], "tcp", 80)
    assert (await lab.check())[probe]
    await lab.api.label("a", "front", {"role": "back"})
    assert not (await lab.check())[probe]
    await lab.api.label("a", "front", {"role": "front"})
    assert (await lab.check())[probe]


async def test_D15_an_address_that_is_used_again_has_the_new_pods_rights(lab: Lab) -> None:
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", rule(PODS_FRONT)))
    probe = Probe("other", BACK.ips[0], "tcp", 80)
    assert not (await lab.check())[probe]
    await lab.api.delete("/api/v1/namespaces/b/pods/other")
    await lab.api.delete("/api/v1/namespaces/a/pods/front")
    await lab.api.pod(replace(FRONT, ips=OTHER.ips))
    assert (await lab.check())[probe]
    assert not (await lab.check())[Probe("front", BACK.ips[0], "tcp", 80)]


@pytest.mark.parametrize(
    "strange", [{"phase": "Succeeded"}, {"phase": "Failed"}, {"fields": {"hostNetwork": True}}]
)
async def test_D16_D19_a_finished_or_host_network_pod_has_no_role(
    lab: Lab, strange: dict[str, Any]
) -> None:
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", rule(PODS_FRONT)))
    await lab.api.delete("/api/v1/namespaces/a/pods/front")
    await lab.api.pod(replace(FRONT, **strange))
    have = await lab.check()
    assert not have[Probe("front", BACK.ips[0], "tcp", 80)]
    assert have[Probe("outside", FRONT.ips[0], "tcp", 80)]


async def test_D31_names_of_any_length_are_kept_apart(lab: Lab) -> None:
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "x" * 253, spec("back", rule(PODS_FRONT, ports=[TCP80])))
    await lab.api.policy("b", "x" * 253, spec(None, rule(PODS_FRONT, ports=[{"port": 81}])))
    await lab.check(everything((80, 81)))
