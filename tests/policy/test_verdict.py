"""The reference verdict: properties that any firewall of this kind must have, and its reasons."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from policy import (
    Cluster,
    Flow,
    Isolation,
    Miss,
    Namespace,
    Peer,
    Pod,
    Policy,
    Port,
    Protocol,
    Reason,
    Rule,
    Selector,
    verdict,
)
from policy.types import Operator, Requirement
from tests.policy import strategies

FRONTEND = Selector((Requirement("segment", Operator.IN, ("frontend",)),))
BACKEND = Selector((Requirement("segment", Operator.IN, ("backend",)),))
POL1 = Policy(
    "tenant-a", "pol1", BACKEND, (Rule((Peer(pods=FRONTEND),), (Port(Protocol.TCP, 80, 80),)),)
)
WORLD = Cluster(
    namespaces={
        "tenant-a": Namespace("tenant-a", isolation=Isolation.ON),
        "tenant-b": Namespace("tenant-b"),
    },
    pods=(
        Pod("tenant-a", "front", {"segment": "frontend"}, ("10.0.0.1",), "n1"),
        Pod("tenant-a", "back", {"segment": "backend"}, ("10.0.0.2",), "n1"),
        Pod("tenant-b", "front", {"segment": "frontend"}, ("10.0.0.3",), "n1"),
    ),
    policies=(POL1,),
    nodes={"n1": frozenset({"10.1.0.1"}), "n2": frozenset({"10.1.0.2"})},
)


def judge(source: str, target: str = "10.0.0.2", port: int = 80) -> Reason:
    return verdict(WORLD, Flow(source, target, "TCP", port)).reason


def test_the_policy_of_the_post_lets_in_what_it_says_and_nothing_else() -> None:
    assert judge("10.0.0.1") is Reason.ALLOWED
    assert judge("10.0.0.1", port=81) is Reason.NO_RULE
    assert judge("10.0.0.3") is Reason.NO_RULE
    assert judge("192.0.2.1") is Reason.NO_RULE
    assert judge("10.0.0.2", "10.0.0.1") is Reason.NOT_SELECTED


def test_the_own_node_and_the_pod_itself_always_reach_it() -> None:
    assert judge("10.1.0.1") is Reason.NODE
    assert judge("10.1.0.2") is Reason.NO_RULE
    assert judge("10.0.0.2", "10.0.0.2", 9) is Reason.ITSELF


def test_what_is_not_isolated_or_no_pod_is_open() -> None:
    assert judge("10.0.0.1", "10.0.0.3") is Reason.NOT_ISOLATED
    assert judge("10.0.0.1", "10.9.9.9") is Reason.NO_POD


def test_a_denial_names_the_nearest_miss_for_a_person() -> None:
    denied = verdict(WORLD, Flow("10.0.0.1", "10.0.0.2", "TCP", 81))
    assert [missed.miss for missed in denied.misses] == [Miss.PORT]
    assert denied.explain().splitlines() == [
        "denied: no rule of the policies that select the pod allows it",
        "  the pod is tenant-a/back; isolation of its namespace is on",
        "  tenant-a/pol1 allows the source, but not the port (nearest: rule 0)",
    ]


def test_audit_lets_pass_what_it_would_deny_and_says_so() -> None:
    audited = replace(
        WORLD, namespaces={"tenant-a": Namespace("tenant-a", isolation=Isolation.AUDIT)}
    )
    found = verdict(audited, Flow("192.0.2.1", "10.0.0.2", "TCP", 80))
    assert (found.allowed, found.denied) == (True, True)
    assert "it would be denied" in found.explain()


def test_a_namespace_that_is_not_known_yet_is_closed() -> None:
    unknown = replace(WORLD, namespaces={})
    assert not verdict(unknown, Flow("192.0.2.1", "10.0.0.3", "TCP", 80)).allowed


def test_of_two_pods_with_one_address_the_newest_counts() -> None:
    old = Pod("tenant-a", "old", {"segment": "backend"}, ("10.0.0.9",), "n1", started="2026-01-01")
    new = Pod("tenant-b", "new", {}, ("10.0.0.9",), "n1", started="2026-01-02")
    both = replace(WORLD, pods=(*WORLD.pods, new, old))
    assert verdict(both, Flow("192.0.2.1", "10.0.0.9", "TCP", 1)).reason is Reason.NOT_ISOLATED


@settings(max_examples=60, deadline=None)
@given(strategies.clusters(), st.integers(0, 4))
def test_taking_a_policy_away_never_lets_more_in(cluster: Cluster, index: int) -> None:
    fewer = replace(cluster, policies=cluster.policies[:index] + cluster.policies[index + 1 :])
    for flow in strategies.flows(cluster)[::7]:
        if verdict(fewer, flow).allowed:
            assert verdict(cluster, flow).allowed


@settings(max_examples=60, deadline=None)
@given(strategies.clusters())
def test_no_order_matters(cluster: Cluster) -> None:
    turned = replace(
        cluster,
        pods=cluster.pods[::-1],
        policies=tuple(
            replace(item, rules=item.rules[::-1]) for item in reversed(cluster.policies)
        ),
    )
    for flow in strategies.flows(cluster)[::7]:
        assert verdict(cluster, flow).allowed == verdict(turned, flow).allowed
