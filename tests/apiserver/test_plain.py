"""The quick look at a policy takes nothing that the close one refuses or would spell otherwise."""

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

import policy
from apiserver.api import builtin, strict
from apiserver.api.metadata import validate_metadata
from apiserver.registry.plain import is_plain

TEXTS = ("", "-a", "a\n", "a" * 63, "a" * 64, "X/z", "/z", "x//z", "é", "80")
texts = st.sampled_from((*20 * ("a", "A.b_c", "x.y/z"), *TEXTS))
junk = st.one_of(st.none(), st.booleans(), st.integers(), texts, st.lists(texts, max_size=1))


def often(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly what belongs there, else anything."""
    return st.integers(0, 15).flatmap(lambda n: junk if n == 7 else good)


def objects(fields: dict[str, st.SearchStrategy[Any]], *others: str) -> st.SearchStrategy[Any]:
    """An object with some of the fields, and now and then one that may be none."""
    extra = dict.fromkeys(others, junk)
    usual = st.fixed_dictionaries({}, optional=fields)
    strange = st.fixed_dictionaries({}, optional={**fields, **extra})
    return st.integers(0, 15).flatmap(lambda n: strange if n == 7 else usual)


labels = often(st.dictionaries(texts, often(texts), max_size=2))
selectors = labels | objects({"matchLabels": labels}, "matchExpressions")
peers = objects({"pods": selectors, "namespaces": selectors}, "podSelector", "ipBlock")
ports = objects(
    {
        "port": often(st.sampled_from((1, 80, 81, 65535, 65536, 0, "80:81", "http"))),
        "protocol": often(st.sampled_from(("TCP", "UDP", "SCTP", "TCP", "ICMP", "tcp"))),
    },
    "endPort",
)
rules = objects(
    {
        "from": often(st.lists(often(peers), max_size=2)),
        "toPorts": often(st.lists(often(ports), max_size=2)),
    },
    "ports",
)
specs = often(
    objects(
        {"podSelector": selectors, "allowIncoming": often(rules | st.lists(rules, max_size=2))},
        "ingress",
        "applyTo",
    )
)
USUAL = {
    "podSelector": {"segment": "backend"},
    "allowIncoming": {
        "from": [{"pods": {"example.com/segment": "frontend"}}, {"namespaces": {}}],
        "toPorts": [{"port": 80, "protocol": "TCP"}, {"protocol": "UDP"}, {"port": 65535}],
    },
}


metadata = objects(
    {
        "name": often(st.sampled_from(("a", "a.b-c", "a", "A", "-a", "a_b", "a\n", "a" * 254, ""))),
        "labels": labels,
    },
    "annotations",
    "generateName",
    "namespace",
    "finalizers",
    "uid",
)
TYPE = {"apiVersion": "net.alpha.kubernetes.io/v1alpha1", "kind": "NetworkPolicy"}


def policy_of(spec: Any, **meta: Any) -> dict[str, Any]:
    return {**TYPE, "metadata": {"name": "a", **meta}, "spec": spec}


@settings(max_examples=3000)
@given(st.fixed_dictionaries({"metadata": metadata, "spec": specs}, optional={"status": junk}))
@example(policy_of(USUAL))
@example(policy_of({"podSelector": {"x/" + "a" * 64: ""}}))
@example(policy_of({"podSelector": {"x" * 254 + "/a": ""}}))
@example(policy_of({}, labels={"a": "b\n"}))
def test_is_always_right(found: dict[str, Any]) -> None:
    obj = {**TYPE, **found}
    if not is_plain(obj):
        return
    assert policy.validate(obj) == []
    assert policy.normalise(obj) == (obj, [])
    assert strict.unknown_fields(obj, builtin.NETWORKPOLICYS.schema) == []
    assert validate_metadata({**obj["metadata"], "namespace": "a"}, namespaced=True) == []


def test_takes_what_people_write() -> None:
    assert is_plain(policy_of(USUAL, labels={"app": "a"}, namespace="default"))
    assert is_plain(policy_of({}))
    assert is_plain(policy_of({"allowIncoming": [USUAL["allowIncoming"], {}]}))
