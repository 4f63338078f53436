"""The compiler is equal to the reference verdict, and shares what can be shared."""

from hypothesis import given, settings

from enforcer.compile import compile_ruleset
from enforcer.ruleset import Ruleset
from policy import Cluster, Isolation, Namespace, Pod, Policy, Rule, parse, verdict
from tests.enforcer.interpreter import Packet, passes
from tests.policy import strategies


@settings(max_examples=150, deadline=None)
@given(strategies.clusters())
def test_the_compiler_equals_the_reference_verdict(cluster: Cluster) -> None:
    rules = compile_ruleset(cluster)
    nodes = set().union(*cluster.nodes.values())
    for flow in strategies.flows(cluster):
        if flow.source in nodes:
            continue  # the own node does not pass the forward hook; another one is an outsider
        packet = Packet(flow.source, flow.destination, flow.protocol, flow.port)
        found = verdict(cluster, flow)
        assert passes(rules, packet) == found.allowed, (packet, found.explain())


@settings(max_examples=30, deadline=None)
@given(strategies.clusters())
def test_a_node_protects_its_own_pods_only(cluster: Cluster) -> None:
    rules = compile_ruleset(cluster, node="n1")
    for flow in strategies.flows(cluster)[::5]:
        owner = cluster.owner(flow.destination)
        packet = Packet(flow.source, flow.destination, flow.protocol, flow.port)
        if owner is None or owner.node != "n1":
            # A pod here keeps its protection, whoever elsewhere claims its address.
            claimed = any(
                pod.live and pod.node == "n1" and flow.destination in pod.ips
                for pod in cluster.pods
            )
            assert claimed or passes(rules, packet)
        elif flow.source not in set().union(*cluster.nodes.values()):
            assert passes(rules, packet) == verdict(cluster, flow).allowed


@settings(max_examples=30, deadline=None)
@given(strategies.clusters())
def test_equal_clusters_have_equal_digests(cluster: Cluster) -> None:
    turned = Cluster(
        dict(reversed(list(cluster.namespaces.items()))),
        cluster.pods[::-1],
        cluster.policies[::-1],
        cluster.nodes,
    )
    assert compile_ruleset(cluster).digest() == compile_ruleset(turned).digest()


def cluster(*policies: Policy, pods: int = 3) -> Cluster:
    return Cluster(
        namespaces={"a": Namespace("a", isolation=Isolation.ON)},
        pods=tuple(Pod("a", f"p{n}", {"app": "x"}, (f"10.0.0.{n}",)) for n in range(1, pods + 1)),
        policies=policies,
    )


def chains(rules: Ruleset, prefix: str) -> list[str]:
    return [name for name in rules.chains if name.startswith(prefix)]


def test_pods_that_admit_the_same_share_a_class() -> None:
    one = parse(
        {
            "metadata": {"namespace": "a", "name": "p"},
            "spec": {"allowIncoming": {"from": [{"pods": {}}], "toPorts": [{"port": 80}]}},
        }
    )
    assert len(chains(compile_ruleset(cluster(one, pods=50)), "c_")) == 1


def test_addresses_of_the_local_range_are_closed_until_they_are_known() -> None:
    rules = compile_ruleset(cluster(), pod_cidrs=["10.0.0.0/24", "fd00::/64"])
    assert not passes(rules, Packet("192.0.2.1", "10.0.0.99", "TCP", 80))
    assert not passes(rules, Packet("2001:db8::1", "fd00::99", "TCP", 80))
    assert passes(rules, Packet("192.0.2.1", "10.0.1.99", "TCP", 80))


def test_an_empty_rule_opens_the_pod() -> None:
    rules = compile_ruleset(cluster(Policy("a", "p", rules=(Rule(),))))
    assert rules.sets["pods4"].elements["10.0.0.1"] == "accept"
    assert passes(rules, Packet("192.0.2.1", "10.0.0.1", "GRE"))


def test_a_wide_range_is_an_interval_and_a_narrow_one_is_not() -> None:
    def policy(ports: str) -> Policy:
        return parse(
            {
                "metadata": {"namespace": "a", "name": "p"},
                "spec": {"allowIncoming": {"from": [{"pods": {}}], "toPorts": [{"port": ports}]}},
            }
        )

    narrow = compile_ruleset(cluster(policy("8000:8063")))
    wide = compile_ruleset(cluster(policy("8000:8064")))
    assert [len(m.elements) for n, m in narrow.sets.items() if n.startswith("m_")] == [64]
    assert [len(m.elements) for n, m in wide.sets.items() if n.startswith("r_")] == [1]
