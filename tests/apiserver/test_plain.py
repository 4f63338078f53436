"""The quick look at a policy takes nothing that the close one refuses or would spell otherwise."""

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

import policy
from apiserver.api import builtin, strict
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


@settings(max_examples=3000)
@given(specs)
@example(USUAL)
@example({"podSelector": {"x/" + "a" * 64: ""}})
@example({"podSelector": {"x" * 254 + "/a": ""}})
def test_is_always_right(spec: Any) -> None:
    if not is_plain(spec):
        return
    obj = {"spec": spec}
    assert policy.validate(obj) == []
    assert policy.normalise(obj) == (obj, [])
    assert strict.unknown_fields(obj, builtin.NETWORKPOLICYS.schema) == []


def test_takes_what_people_write() -> None:
    assert is_plain(USUAL)
    assert is_plain({})
    assert is_plain({"allowIncoming": [USUAL["allowIncoming"], {}]})
