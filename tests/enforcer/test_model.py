"""What the enforcer knows, and what it makes of objects that are wrong."""

from typing import Any

import pytest

from enforcer.model import NAMESPACES, PODS, POLICIES, Model
from enforcer.reflector import Apply, Replace


def named(name: str, **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "n"}, **fields}


GOOD = named("p", spec={"allowIncoming": {}})
BAD = named("p", spec={"allowIncoming": {"toPorts": [{"port": 0}]}})


def synced() -> Model:
    model = Model()
    for resource in (NAMESPACES, PODS, POLICIES):
        model.tell(resource, Replace(()))
    model.changed = False
    return model


@pytest.mark.parametrize("missing", [NAMESPACES, PODS, POLICIES])
def test_there_is_no_state_before_all_three_are_listed(missing: str) -> None:
    model = Model()
    for resource in {NAMESPACES, PODS, POLICIES} - {missing}:
        model.tell(resource, Replace(()))
    assert not model.synced
    with pytest.raises(RuntimeError):
        model.cluster()


def test_a_policy_that_is_wrong_grants_nothing_and_replaces_its_older_version() -> None:
    model = synced()
    model.tell(POLICIES, Apply(GOOD))
    (error,) = model.tell(POLICIES, Apply(BAD))
    assert "spec.allowIncoming.toPorts[0].port" in str(error)
    assert model.cluster().policies == ()
    assert model.tell(POLICIES, Apply(BAD)) == []
    model.tell(POLICIES, Apply(GOOD))
    assert len(model.cluster().policies) == 1
    assert model.invalid == {}


def test_one_wrong_policy_disturbs_no_other() -> None:
    model = synced()
    other = named("q", spec={})
    model.tell(POLICIES, Replace((BAD, other)))
    assert [policy.name for policy in model.cluster().policies] == ["q"]


def test_the_same_list_again_changes_nothing() -> None:
    model = synced()
    for resource in (PODS, POLICIES):
        model.tell(resource, Replace((GOOD,)))
    model.changed = False
    for resource in (PODS, POLICIES):
        model.tell(resource, Replace((GOOD,)))
    assert not model.changed


def test_a_list_removes_what_it_does_not_name() -> None:
    model = synced()
    model.tell(POLICIES, Replace((GOOD, named("q", spec={"x": 1}))))
    model.tell(POLICIES, Replace(()))
    assert (model.cluster().policies, model.invalid) == ((), {})
    assert model.changed


def test_a_node_without_pods_among_nodes_that_have_some_is_doubtful() -> None:
    model = synced()
    assert model.strangers("a") == []
    model.tell(PODS, Apply(named("p", spec={"nodeName": "b"})))
    model.tell(PODS, Apply(named("q")))
    assert model.strangers("a") == ["b"]
    assert model.strangers("b") == model.strangers("") == []
