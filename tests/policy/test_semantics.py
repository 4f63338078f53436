"""A row for each cell of the page that says what a policy means."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import policy
from policy import (
    InvalidPolicy,
    Isolation,
    Operator,
    Peer,
    Policy,
    Port,
    Protocol,
    Requirement,
    Rule,
    Selector,
    normalise,
    parse,
    validate,
)


def equal(**labels: str) -> Selector:
    return Selector(tuple(sorted(Requirement(k, Operator.IN, (v,)) for k, v in labels.items())))


def obj(spec: Any) -> dict[str, Any]:
    return {
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "n"},
        "spec": spec,
    }


def meaning(spec: Any) -> Policy:
    return parse(obj(spec))


def refusal(spec: Any) -> list[str]:
    """The fields that an object is refused for."""
    with pytest.raises(InvalidPolicy) as caught:
        parse(obj(spec))
    return [error.field for error in caught.value.errors]


EVERYTHING = Rule()


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({"segment": "backend"}, equal(segment="backend")),
        ({"a": "x", "b": "y"}, equal(a="x", b="y")),
        ({"matchLabels": {"a": "x"}}, equal(a="x")),
        ({"matchLabels": "plain"}, equal(matchLabels="plain")),
        (
            {"matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}]},
            Selector((Requirement("a", Operator.IN, ("x", "y")),)),
        ),
        (
            {"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["x"]}]},
            Selector((Requirement("a", Operator.NOT_IN, ("x",)),)),
        ),
        (
            {"matchExpressions": [{"key": "a", "operator": "Exists"}]},
            Selector((Requirement("a", Operator.EXISTS),)),
        ),
        (
            {"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]},
            Selector((Requirement("a", Operator.DOES_NOT_EXIST),)),
        ),
        ({}, Selector()),
        (None, Selector()),
    ],
)
def test_pod_selector(selector: Any, expected: Selector) -> None:
    assert meaning({"podSelector": selector}).pod_selector == expected
    assert meaning({}).pod_selector == Selector()


@pytest.mark.parametrize(
    ("incoming", "rules"),
    [
        (None, ()),
        ([], ()),
        ({}, (EVERYTHING,)),
        ([{}], (EVERYTHING,)),
        ([None], (EVERYTHING,)),
        ([{}, {"from": [{"pods": {}}]}], (EVERYTHING, Rule((Peer(pods=Selector()),)))),
        ({"from": None, "toPorts": None}, (EVERYTHING,)),
        ({"from": [], "toPorts": []}, (EVERYTHING,)),
        ({"from": [{"pods": {"a": "x"}}]}, (Rule((Peer(pods=equal(a="x")),)),)),
        ({"from": [{"namespaces": {"a": "x"}}]}, (Rule((Peer(namespaces=equal(a="x")),)),)),
    ],
)
def test_allow_incoming(incoming: Any, rules: tuple[Rule, ...]) -> None:
    assert meaning({"allowIncoming": incoming}).rules == rules
    assert meaning({}).rules == ()


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ({"port": 80}, Port(Protocol.TCP, 80, 80)),
        ({"port": "80"}, Port(Protocol.TCP, 80, 80)),
        ({"port": 1, "protocol": "udp"}, Port(Protocol.UDP, 1, 1)),
        ({"port": 65535, "protocol": "Sctp"}, Port(Protocol.SCTP, 65535, 65535)),
        ({"port": "8000:8080"}, Port(Protocol.TCP, 8000, 8080)),
        ({"port": "http"}, Port(Protocol.TCP, name="http")),
        ({"protocol": "ICMP"}, Port(Protocol.ICMP)),
        ({"protocol": "UDP"}, Port(Protocol.UDP)),
        ({}, Port(Protocol.TCP)),
    ],
)
def test_port(port: Any, expected: Port) -> None:
    assert meaning({"allowIncoming": {"toPorts": [port]}}).rules == (Rule(ports=(expected,)),)


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        (5, ["spec"]),
        ({"podSelectr": {}}, ["spec.podSelectr"]),
        ({"podSelector": []}, ["spec.podSelector"]),
        ({"podSelector": {"matchLabels": {}, "a": "x"}}, ["spec.podSelector.a"]),
        ({"podSelector": {"a": 5}}, ["spec.podSelector.a"]),
        ({"podSelector": {"-a": "x"}}, ["spec.podSelector"]),
        ({"podSelector": {"a": "-"}}, ["spec.podSelector.a"]),
        (
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}},
            ["spec.podSelector.matchExpressions[0].operator"],
        ),
        (
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
            ["spec.podSelector.matchExpressions[0].values"],
        ),
        ({"allowIncoming": "all"}, ["spec.allowIncoming"]),
        ({"allowIncoming": {"form": []}}, ["spec.allowIncoming.form"]),
        ({"allowIncoming": [{}, {"x": 1}]}, ["spec.allowIncoming[1].x"]),
        ({"allowIncoming": {"from": {}}}, ["spec.allowIncoming.from"]),
        ({"allowIncoming": {"from": [{}]}}, ["spec.allowIncoming.from[0]"]),
        ({"allowIncoming": {"from": [None]}}, ["spec.allowIncoming.from[0]"]),
        (
            {"allowIncoming": {"from": [{"pods": {}, "namespaces": {}}]}},
            ["spec.allowIncoming.from[0]"],
        ),
        ({"allowIncoming": {"from": [{"pods": None}]}}, ["spec.allowIncoming.from[0].pods"]),
        ({"allowIncoming": {"toPorts": [{"port": 0}]}}, ["spec.allowIncoming.toPorts[0].port"]),
        ({"allowIncoming": {"toPorts": [{"port": 65536}]}}, ["spec.allowIncoming.toPorts[0].port"]),
        ({"allowIncoming": {"toPorts": [{"port": "0"}]}}, ["spec.allowIncoming.toPorts[0].port"]),
        ({"allowIncoming": {"toPorts": [{"port": "9:8"}]}}, ["spec.allowIncoming.toPorts[0].port"]),
        ({"allowIncoming": {"toPorts": [{"port": "1:"}]}}, ["spec.allowIncoming.toPorts[0].port"]),
        ({"allowIncoming": {"toPorts": [{"port": "a_b"}]}}, ["spec.allowIncoming.toPorts[0].port"]),
        ({"allowIncoming": {"toPorts": [{"port": True}]}}, ["spec.allowIncoming.toPorts[0].port"]),
        ({"allowIncoming": {"toPorts": [{"port": 1.5}]}}, ["spec.allowIncoming.toPorts[0].port"]),
        (
            {"allowIncoming": {"toPorts": [{"port": 8, "protocol": "ICMP"}]}},
            ["spec.allowIncoming.toPorts[0].port"],
        ),
        (
            {"allowIncoming": {"toPorts": [{"protocol": "GRE"}]}},
            ["spec.allowIncoming.toPorts[0].protocol"],
        ),
        ({"allowIncoming": {"toPorts": [80]}}, ["spec.allowIncoming.toPorts[0]"]),
        (
            {"x": 1, "allowIncoming": {"toPorts": [{"port": 0, "protocol": 5}]}},
            ["spec.x", "spec.allowIncoming.toPorts[0].protocol",
             "spec.allowIncoming.toPorts[0].port"],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_field(spec: Any, fields: list[str]) -> None:
    assert refusal(spec) == fields


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"applyTo": {"a": "x"}}, {"podSelector": {"a": "x"}}),
        ({"ingress": [{}]}, {"allowIncoming": [{}]}),
        ({"inbound": {}}, {"allowIncoming": {}}),
        (
            {"allowIncoming": {"ports": [{"port": 80}]}},
            {"allowIncoming": {"toPorts": [{"port": 80}]}},
        ),
        (
            {"ingress": [{"from": [{"podSelector": {}}, {"namespaceSelector": {}}]}]},
            {"allowIncoming": [{"from": [{"pods": {}}, {"namespaces": {}}]}]},
        ),
    ],
)
def test_the_spellings_of_the_time_are_brought_to_the_canonical_one(old: Any, new: Any) -> None:
    result, warnings = normalise(obj(old))
    assert result == obj(new)
    assert warnings
    assert normalise(result) == (result, [])


def test_a_policy_at_top_level_is_moved_into_spec_with_all_that_stands_there() -> None:
    flat = {"kind": "NetworkPolicy", "metadata": {"name": "p"}, "applyTo": {}, "podSelectr": 1}
    result, warnings = normalise(flat)
    assert result["spec"] == {"podSelector": {}, "podSelectr": 1}
    assert any("top level" in warning for warning in warnings)
    assert [error.field for error in validate(result)] == ["spec.podSelectr"]


@pytest.mark.parametrize(
    "spec",
    [
        {"podSelector": {}, "applyTo": {}},
        {"ingress": [], "inbound": []},
        {"allowIncoming": {"ports": [], "toPorts": []}},
        {"allowIncoming": {"from": [{"pods": {}, "podSelector": {}}]}},
    ],
)
def test_two_spellings_of_one_field_are_an_error(spec: Any) -> None:
    with pytest.raises(InvalidPolicy, match="two spellings of one field"):
        normalise(obj(spec))


@pytest.mark.parametrize(
    "value", ["on", "yes", "true", "1", "enabled", "y", "t", "ON", "Yes", "TRUE"]
)
def test_isolation_on(value: str) -> None:
    assert policy.isolation({policy.ISOLATION_ANNOTATION: value}) == (Isolation.ON, None)


@pytest.mark.parametrize("value", ["off", "no", "false", "0", "disabled", "n", "f", "OFF"])
def test_isolation_off(value: str) -> None:
    assert policy.isolation({policy.ISOLATION_ANNOTATION: value}) == (Isolation.OFF, None)


def test_isolation_absent_audit_and_unknown() -> None:
    assert policy.isolation(None) == (Isolation.OFF, None)
    assert policy.isolation({}) == (Isolation.OFF, None)
    assert policy.isolation({policy.ISOLATION_ANNOTATION: "Audit"}) == (Isolation.AUDIT, None)
    found, warning = policy.isolation({policy.ISOLATION_ANNOTATION: "onn"})
    assert found is Isolation.OFF
    assert warning is not None
    assert '"onn" is unknown and means off' in warning


def test_a_pod_is_read_leniently() -> None:
    strange = {
        "metadata": {"namespace": "n", "name": "p", "labels": {"a": "x", "b": 5}},
        "spec": {
            "nodeName": "node",
            "containers": [
                {"ports": [{"name": "http", "containerPort": 80}, {"containerPort": "x"}]},
                "nonsense",
            ],
            "initContainers": [
                {"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 9}]},
                {"ports": [{"name": "init", "containerPort": 10}]},
            ],
        },
        "status": {
            "phase": "Running",
            "podIP": "::ffff:10.0.0.1",
            "podIPs": [{"ip": "10.0.0.1"}, {"ip": "FD00::0:1"}, {"ip": "nonsense"}, 5],
        },
    }
    found = policy.pod(strange)
    assert (found.labels, found.ips, found.node) == ({"a": "x"}, ("10.0.0.1", "fd00::1"), "node")
    assert [(port.name, port.port) for port in found.ports] == [("http", 80), ("side", 9)]
    assert found.live


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_finished_pod_and_one_on_the_host_network_match_nothing(phase: str) -> None:
    assert not policy.pod({"status": {"phase": phase}}).live
    assert not policy.pod({"spec": {"hostNetwork": True}}).live


KEYS = (
    *("podSelector", "applyTo", "allowIncoming", "ingress", "from", "toPorts", "ports", "pods"),
    *("namespaces", "port", "protocol", "matchLabels", "matchExpressions", "key", "operator"),
    "values",
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS) | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(json_values)
def test_any_json_is_accepted_or_refused_and_never_raises_anything_else(spec: Any) -> None:
    try:
        result, _ = normalise(obj(spec))
    except InvalidPolicy:
        return
    assert normalise(result)[0] == result
    errors = validate(result)
    if errors:
        with pytest.raises(InvalidPolicy) as caught:
            parse(obj(spec))
        assert list(caught.value.errors) == errors
    else:
        parse(obj(spec))
