"""What the enforcer knows, and what it makes of objects that are wrong."""

from typing import Any

import pytest

from enforcer.compile import Compiler
from enforcer.host import canary
from enforcer.model import NAMESPACES, PIECE, PODS, POLICIES, Given, Model
from enforcer.reflector import Apply, Replace


def named(name: str, **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "n"}, **fields}


GOOD = named("p", spec={"allowIncoming": {}})
BAD = named("p", spec={"allowIncoming": {"toPorts": [{"port": 0}]}})


def synced() -> Model:
    model = Model(Compiler())
    for resource in (NAMESPACES, PODS, POLICIES):
        model.tell(resource, Replace(()))
    model.compiler.take()
    return model


def names(model: Model) -> list[str]:
    return sorted(name for own in model.compiler.index.policies.values() for name in own)


@pytest.mark.parametrize("missing", [NAMESPACES, PODS, POLICIES])
def test_there_is_no_state_before_all_three_are_listed(missing: str) -> None:
    model = Model(Compiler())
    for resource in {NAMESPACES, PODS, POLICIES} - {missing}:
        model.tell(resource, Replace(()))
    assert not model.synced
    model.tell(missing, Replace(()))
    assert model.synced


def test_a_list_is_taken_in_by_pieces_and_is_no_state_until_the_last() -> None:
    model = synced()
    model.tell(POLICIES, Apply(named("gone", spec={})))
    listed = [named(f"p{number:04}", spec={}) for number in range(2 * PIECE)]
    pieces = model.pieces(POLICIES, Replace((BAD, *listed), "7"))
    assert [str(error) for error in next(pieces)] == [str(model.invalid["n", "p"])]
    done = [item["metadata"]["name"] for item in listed]
    assert (model.halfway, names(model)) == (True, done[: PIECE - 1])
    assert model.revisions[POLICIES] != "7"
    assert list(pieces) == [[], []]
    assert (model.halfway, names(model)) == (False, done)
    assert model.revisions[POLICIES] == "7"


def test_a_list_that_is_given_up_halfway_leaves_nothing_waiting() -> None:
    model = synced()
    pieces = model.pieces(POLICIES, Replace((GOOD,) * (PIECE + 1)))
    next(pieces)
    pieces.close()
    assert not model.halfway


def test_D32_a_policy_that_is_wrong_grants_nothing_and_replaces_its_older_version() -> None:
    model = synced()
    model.tell(POLICIES, Apply(GOOD))
    (error,) = model.tell(POLICIES, Apply(BAD))
    assert "spec.allowIncoming.toPorts[0].port" in str(error)
    assert names(model) == []
    assert model.tell(POLICIES, Apply(BAD)) == []
    model.tell(POLICIES, Apply(GOOD))
    assert names(model) == ["p"]
    assert model.invalid == {}


def test_D32_one_wrong_policy_disturbs_no_other() -> None:
    model = synced()
    other = named("q", spec={})
    model.tell(POLICIES, Replace((BAD, other)))
    assert names(model) == ["q"]


def test_the_same_list_again_changes_nothing() -> None:
    model = synced()
    pod = named("p", status={"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]})
    for resource, item in ((PODS, pod), (POLICIES, GOOD)):
        model.tell(resource, Replace((item,)))
    assert model.compiler.take()
    for resource, item in ((PODS, pod), (POLICIES, GOOD)):
        model.tell(resource, Replace((item,)))
    assert not model.compiler.dirty
    assert not model.compiler.take()


def test_a_list_removes_what_it_does_not_name() -> None:
    model = synced()
    model.tell(POLICIES, Replace((GOOD, named("q", spec={"x": 1}))))
    model.tell(POLICIES, Replace(()))
    assert (names(model), model.invalid) == ([], {})


def test_a_node_without_pods_among_nodes_that_have_some_is_doubtful() -> None:
    model = synced()
    assert model.strangers("a") == []
    model.tell(PODS, Apply(named("p", spec={"nodeName": "b"})))
    model.tell(PODS, Apply(named("q")))
    assert model.strangers("a") == ["b"]
    assert model.strangers("b") == model.strangers("") == []


RUNNING = {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}


def started(model: Model, *, uid: str = "1", **fields: Any) -> None:
    pod = named("p", status={"phase": "Pending"}, **fields)
    pod["metadata"]["uid"] = uid
    model.tell(PODS, Apply(pod))


def given(*ips: str, uid: str = "1", sandbox: str = "s1", interface: str = "eth0") -> Given:
    return Given(uid, sandbox, "2026-01-01T00:00:00Z", {interface: ips})


def addresses(model: Model) -> tuple[str, ...]:
    pod = model.compiler.index.pods.get(("n", "p"))
    return pod.ips if pod else ()


def test_a_claim_counts_until_the_api_says_the_same() -> None:
    model = synced()
    model.give(("n", "p"), given("10.0.0.9"))
    assert addresses(model) == ()
    started(model)
    assert addresses(model) == ("10.0.0.9",)
    running = named("p", status=RUNNING)
    running["metadata"]["uid"] = "1"
    # What the API says is that of the sandbox before, until it says what was claimed.
    model.tell(PODS, Apply(running))
    assert addresses(model) == ("10.0.0.9",)
    model.tell(PODS, Apply({**running, "status": {**RUNNING, "podIPs": [{"ip": "10.0.0.9"}]}}))
    model.take_back(("n", "p"), "s1", "eth0")
    assert addresses(model) == ("10.0.0.9",)


def test_a_claim_of_another_pod_of_the_name_counts_for_nothing() -> None:
    model = synced()
    started(model, uid="2")
    model.give(("n", "p"), given("10.0.0.9", uid="1"))
    assert addresses(model) == ()
    assert model.pod(("n", "p"), "1") is None
    assert model.pod(("n", "p"), "2") is not None


def test_the_end_of_an_older_sandbox_takes_nothing_from_the_new_one() -> None:
    model = synced()
    started(model)
    model.give(("n", "p"), given("10.0.0.8", sandbox="s1"))
    model.give(("n", "p"), given("10.0.0.9", sandbox="s2"))
    model.give(("n", "p"), given("fd00::9", sandbox="s2", interface="net1"))
    model.take_back(("n", "p"), "s1", "eth0")
    assert addresses(model) == ("10.0.0.9", "fd00::9")
    model.take_back(("n", "p"), "s2", "net1")
    assert addresses(model) == ("10.0.0.9",)
    model.take_back(("n", "p"), "s2", "eth0")
    assert addresses(model) == ()


def test_what_is_apart_is_taken_away_by_no_list() -> None:
    namespace, pods, policy = canary.objects("")
    model = Model(Compiler(), apart=frozenset({namespace.name}))
    canary.put(model.compiler, "")
    for resource in (NAMESPACES, PODS, POLICIES):
        model.tell(resource, Replace(()))
    assert names(model) == [policy.name]
    assert len(model.compiler.index.pods) == len(pods)
