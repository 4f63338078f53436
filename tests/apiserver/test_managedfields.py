"""Ownership of fields as pure values: sets of paths, comparison, apply."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.api import builtin, managedfields
from apiserver.api.managedfields import Conflicts, Origin, fieldpath, managers, typed
from apiserver.api.schemas import DEFINITIONS

POLICY = builtin.NETWORKPOLICYS
SCHEMA = DEFINITIONS[POLICY.schema]
NOTE = "kubectl.kubernetes.io/last-applied-configuration"


def by(manager: str, now: str = "2026-01-01T00:00:00Z", subresource: str = "") -> Origin:
    return Origin(manager=manager, resource=POLICY, now=now, subresource=subresource)


def config(spec: Any = None, **meta: Any) -> dict[str, Any]:
    head = {"apiVersion": POLICY.api_version, "kind": POLICY.kind}
    return {**head, "metadata": {"name": "p", **meta}, **({"spec": spec} if spec else {})}


def apply(
    live: dict[str, Any], applied: dict[str, Any], origin: Origin, force: bool = False
) -> dict[str, Any]:
    return managedfields.apply(live, applied, origin, force=force)


def owned(obj: dict[str, Any], manager: str) -> set[str]:
    """The paths that a manager owns, as people read them."""
    return {
        fieldpath.text(path)
        for entry in obj["metadata"].get("managedFields", ())
        if entry["manager"] == manager
        for path in fieldpath.decode(entry["fieldsV1"]).paths()
    }


elements = st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', 'v:"t"', "i:0"])
paths = st.lists(elements, min_size=1, max_size=4).map(tuple)
sets = st.lists(paths, max_size=8).map(lambda found: fieldpath.of(*found))


@given(sets, sets)
def test_the_algebra_of_sets_is_that_of_their_paths(one: fieldpath.Set, two: fieldpath.Set) -> None:
    left, right = set(one.paths()), set(two.paths())
    assert set((one | two).paths()) == left | right
    assert set((one & two).paths()) == left & right
    assert set((one - two).paths()) == left - right
    assert bool(one) is bool(left)
    below = {path for path in left if not any(path[: len(p)] == p for p in right)}
    assert set(one.without(two).paths()) == below


@given(sets)
def test_fields_v1_says_all_there_is_to_a_set(found: fieldpath.Set) -> None:
    assert fieldpath.decode(json.loads(json.dumps(fieldpath.encode(found)))) == found


def test_SSA06_paths_are_written_as_upstream_writes_them() -> None:
    spec = {"podSelector": {"a": "b"}, "allowIncoming": {"toPorts": [{"port": 80}]}}
    made = apply({}, config(spec, labels={"x": "y"}, finalizers=["a.io/b"]), by("m"))
    (entry,) = made["metadata"]["managedFields"]
    assert entry == {
        "manager": "m",
        "operation": "Apply",
        "apiVersion": "net.alpha.kubernetes.io/v1alpha1",
        "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:metadata": {"f:finalizers": {'v:"a.io/b"': {}}, "f:labels": {"f:x": {}}},
            "f:spec": {"f:allowIncoming": {}, "f:podSelector": {}},
        },
    }


def test_SSA08_an_update_owns_what_it_changed_and_containers_too() -> None:
    made = config({"podSelector": {"a": "b"}}, labels={"x": "y"})
    made["metadata"]["managedFields"] = managedfields.track({}, made, by("curl"))
    (entry,) = made["metadata"]["managedFields"]
    assert entry["operation"] == "Update"
    assert entry["fieldsV1"] == {
        "f:metadata": {"f:labels": {".": {}, "f:x": {}}},
        "f:spec": {".": {}, "f:podSelector": {}},
    }
    changed = {**made, "metadata": {**made["metadata"], "labels": {"x": "z"}}}
    changed["metadata"]["managedFields"] = managedfields.track(made, changed, by("edit"))
    assert owned(changed, "edit") == {".metadata.labels.x"}
    assert owned(changed, "curl") == {".metadata.labels", ".spec", ".spec.podSelector"}


def test_SSA08_only_ten_updaters_are_kept_apart() -> None:
    live: dict[str, Any] = {}
    for number in range(14):
        new = json.loads(json.dumps(live)) or config()
        new["metadata"].setdefault("labels", {})[f"l{number}"] = "x"
        now = f"2026-01-01T00:00:{number:02}Z"
        new["metadata"]["managedFields"] = managedfields.track(live, new, by(f"m{number}", now))
        live = new
    managers = [entry["manager"] for entry in live["metadata"]["managedFields"]]
    assert managers == ["ancient-changes", *(f"m{n}" for n in range(5, 14))]
    assert ".metadata.labels.l4" in owned(live, "ancient-changes")


def test_SSA07_entries_come_by_operation_and_then_by_age() -> None:
    live = apply({}, config(labels={"a": "1"}), by("late", "2026-01-03T00:00:00Z"))
    live = apply(live, config(labels={"b": "1"}), by("early", "2026-01-02T00:00:00Z"))
    new = json.loads(json.dumps(live))
    new["metadata"]["labels"]["c"] = "1"
    entries = managedfields.track(live, new, by("zero", "2026-01-01T00:00:00Z"))
    assert [e["manager"] for e in entries] == ["early", "late", "zero"]


def test_SSA03_a_field_of_another_with_another_value_is_a_conflict() -> None:
    live = apply({}, config(labels={"a": "1", "b": "1"}), by("m1"))
    with pytest.raises(Conflicts) as raised:
        apply(live, config(labels={"a": "2"}), by("m2"))
    error = managedfields.apply_conflict(raised.value)
    assert error.message == 'Apply failed with 1 conflict: conflict with "m1": .metadata.labels.a'
    assert error.as_json()["details"] == {
        "causes": [
            {
                "reason": "FieldManagerConflict",
                "message": 'conflict with "m1"',
                "field": ".metadata.labels.a",
            }
        ]
    }
    with pytest.raises(Conflicts) as raised:
        apply(live, config(labels={"a": "2", "b": "2"}), by("m2"))
    assert managedfields.apply_conflict(raised.value).message == (
        'Apply failed with 2 conflicts: conflicts with "m1":\n'
        "- .metadata.labels.a\n- .metadata.labels.b"
    )


def test_SSA03_an_updater_is_named_with_its_version_and_subresource() -> None:
    live = {**config(), "status": {"observed": "a"}}
    origin = by("agent", subresource="status")
    live["metadata"]["managedFields"] = managedfields.track(config(), live, origin)
    with pytest.raises(Conflicts) as raised:
        apply(live, {**config(), "status": {"observed": "b"}}, by("m", subresource="status"))
    assert managedfields.apply_conflict(raised.value).causes[0].message == (
        'conflict with "agent" with subresource "status" using net.alpha.kubernetes.io/v1alpha1'
    )


def test_SSA04_force_takes_and_equal_values_are_shared() -> None:
    live = apply({}, config(labels={"a": "1", "b": "1"}), by("m1"))
    live = apply(live, config(labels={"a": "1"}), by("m2"))
    assert owned(live, "m1") == {".metadata.labels.a", ".metadata.labels.b"}
    assert owned(live, "m2") == {".metadata.labels.a"}
    live = apply(live, config(labels={"a": "2"}), by("m3"), force=True)
    assert owned(live, "m1") == {".metadata.labels.b"}
    assert owned(live, "m2") == set()
    assert owned(live, "m3") == {".metadata.labels.a"}


def test_SSA03_a_rule_is_owned_as_one() -> None:
    live = apply({}, config({"allowIncoming": {"toPorts": [{"port": 80}]}}), by("m1"))
    others: list[Any] = [{"from": [{"pods": {"a": "b"}}]}, [{}], {}]
    for other in others:
        with pytest.raises(Conflicts) as raised:
            apply(live, config({"allowIncoming": other}), by("m2"))
        (disputed,) = raised.value.fields.paths()
        assert fieldpath.text(disputed) == ".spec.allowIncoming"
        taken = apply(live, config({"allowIncoming": other}), by("m2"), force=True)
        assert taken["spec"] == {"allowIncoming": other}
        assert owned(taken, "m1") == set()


def test_SSA03_a_value_of_another_shape_is_a_conflict() -> None:
    one, two = by("m1", subresource="status"), by("m2", subresource="status")
    live = apply(config(), {**config(), "status": {"x": {"a": 1}}}, one)
    other = {**config(), "status": {"x": [1]}}
    with pytest.raises(Conflicts) as raised:
        apply(live, other, two)
    assert ".status.x.a" in {fieldpath.text(path) for path in raised.value.fields.paths()}
    assert apply(live, other, two, force=True)["status"] == {"x": [1]}


def test_SSA14_an_apply_to_the_status_may_say_nothing() -> None:
    live = apply({}, config({"podSelector": {"a": "b"}}), by("m1"))
    assert apply(live, config(), by("m2", subresource="status")) == live


def test_SSA05_what_is_no_longer_applied_goes_unless_another_owns_it() -> None:
    live = apply({}, config(labels={"a": "1", "b": "1", "c": "1"}), by("m1"))
    live = apply(live, config(labels={"b": "1"}), by("m2"))
    live = apply(live, config(labels={"c": "1"}), by("m1"))
    assert live["metadata"]["labels"] == {"b": "1", "c": "1"}
    live = apply(live, config(), by("m1"))
    assert live["metadata"]["labels"] == {"b": "1"}
    live = apply(live, config(), by("m2"))
    assert "labels" not in live["metadata"]
    assert "managedFields" not in live["metadata"] or not live["metadata"]["managedFields"]


def test_SSA05_items_go_by_their_key_and_atomic_lists_as_one() -> None:
    conditions = [{"type": "Ready", "status": "True"}, {"type": "Old", "status": "True"}]
    status = by("m", subresource="status")
    live = apply(config(), {**config(), "status": {"conditions": conditions}}, status)
    other = {"conditions": [{"type": "Seen", "status": "True"}]}
    live = apply(live, {**config(), "status": other}, by("other", subresource="status"))
    live = apply(live, {**config(), "status": {"conditions": conditions[:1]}}, status)
    assert [c["type"] for c in live["status"]["conditions"]] == ["Ready", "Seen"]
    assert '.status.conditions[type="Ready"].status' in owned(live, "m")
    ports: list[dict[str, Any]] = [{"port": 80}, {"port": 81}]
    live = apply(live, config({"allowIncoming": {"toPorts": ports}}), by("m"))
    live = apply(live, config({"allowIncoming": {"toPorts": ports[1:]}}), by("m"))
    assert live["spec"]["allowIncoming"] == {"toPorts": [{"port": 81}]}


def test_SSA09_an_empty_entry_clears_the_record_and_an_unreadable_one_is_not_believed() -> None:
    live = apply({}, config(labels={"a": "1"}), by("m1"))
    for sent, expected in (
        ([{}], []),
        ([], []),
        (None, live["metadata"]["managedFields"]),
        ([{"operation": "Nope"}], live["metadata"]["managedFields"]),
    ):
        new = json.loads(json.dumps(live))
        new["metadata"].pop("managedFields")
        if sent is not None:
            new["metadata"]["managedFields"] = sent
        assert managedfields.track(live, new, by("m2")) == expected, sent


def test_SSA10_an_apply_that_changes_nothing_leaves_the_time_alone() -> None:
    spec = {"podSelector": {"a": "b"}}
    live = apply({}, config(spec), by("m"))
    assert apply(live, config(spec), by("m", "2027-01-01T00:00:00Z")) == live


def test_SSA13_kubectl_takes_over_what_it_applied_on_the_client_side() -> None:
    last = config(labels={"a": "1"})
    live = config(labels={"a": "1", "b": "1"}, annotations={NOTE: json.dumps(last)})
    live["metadata"]["managedFields"] = managedfields.track(
        {}, live, by("kubectl-client-side-apply")
    )
    wanted = config(labels={"a": "2"})
    with pytest.raises(Conflicts):
        apply(live, wanted, by("someone"))
    new = apply(live, wanted, by("kubectl"))
    assert new["metadata"]["labels"] == {"a": "2", "b": "1"}
    assert json.loads(new["metadata"]["annotations"][NOTE]) == wanted
    with pytest.raises(Conflicts) as raised:
        apply(live, config(labels={"a": "2", "b": "2"}), by("kubectl"))
    assert [fieldpath.text(path) for *_, path in raised.value.disputed] == [".metadata.labels.b"]


def test_an_object_that_nobody_tracked_belongs_to_before_first_apply() -> None:
    live = config({"podSelector": {"a": "b"}}, labels={"x": "y"})
    with pytest.raises(Conflicts):
        apply(live, config(labels={"x": "z"}), by("m"))
    new = apply(live, config({"podSelector": {"a": "b"}}), by("m"))
    assert owned(new, "before-first-apply") >= {".spec.podSelector", ".metadata.labels.x"}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"bogus": 1}, ".spec.bogus: field not declared in schema"),
        (
            {"allowIncoming": {"toPorts": {"port": 1}}},
            ".spec.allowIncoming.toPorts: expected list, got a map",
        ),
        (
            {"allowIncoming": {"toPorts": [{"protocol": 1}]}},
            ".spec.allowIncoming.toPorts[0].protocol: expected string, got 1",
        ),
        ({"podSelector": [1]}, None),
        ("x", '.spec: expected map, got "x"'),
    ],
)
def test_SSA11_what_does_not_fit_the_schema_is_named(spec: Any, text: str | None) -> None:
    found = [str(problem) for problem in typed.problems(config(spec), SCHEMA)]
    assert found == ([text] if text else [])


def test_SSA11_keys_of_lists_must_be_there_and_differ() -> None:
    conditions = [{"type": "A", "status": "x"}, {"type": "A", "status": "y"}, {"status": "z"}]
    found = [str(p) for p in typed.problems({"status": {"conditions": conditions}}, SCHEMA)]
    assert found == [
        '.status.conditions: duplicate entries for key [type="A"]',
        ".status.conditions[2]: associative list with keys has an element that omits all key"
        ' fields ["type"]',
    ]


def test_SSA18_null_is_owned_and_removes() -> None:
    live = apply({}, config({"podSelector": {"a": "b"}}, labels={"x": "y"}), by("m"))
    live = apply(live, config({"podSelector": None}, labels={"x": "y"}), by("m"))
    assert "podSelector" not in live["spec"]
    assert ".spec.podSelector" in owned(live, "m")


labels = st.dictionaries(st.sampled_from("abc"), st.sampled_from("12"), max_size=3)
rules = st.fixed_dictionaries(
    {},
    optional={
        "toPorts": st.lists(st.fixed_dictionaries({"port": st.integers(1, 3)}), max_size=2),
        "from": st.lists(st.just({"pods": {"a": "b"}}), max_size=2),
    },
)
specs = st.fixed_dictionaries(
    {}, optional={"podSelector": labels, "allowIncoming": rules | st.lists(rules, max_size=2)}
)
configs = st.builds(
    lambda spec, found, finalizers: config(spec, labels=found, finalizers=finalizers),
    specs,
    labels,
    st.lists(st.sampled_from(["x.io/a", "x.io/b"]), unique=True, max_size=2),
)


def clean(obj: Any) -> Any:
    """Without empty containers, which removing leaves or not."""
    if isinstance(obj, dict):
        kept = {key: clean(value) for key, value in obj.items() if key != "managedFields"}
        return {key: value for key, value in kept.items() if value not in ({}, [])}
    return obj


@given(configs, configs)
def test_the_only_manager_gets_just_what_it_says(one: dict[str, Any], two: dict[str, Any]) -> None:
    live = apply(apply({}, one, by("m")), two, by("m"))
    assert clean(live) == clean(two)
    assert apply(live, two, by("m")) == live


@given(configs, configs, configs)
def test_nobody_loses_a_field_by_what_another_stops_to_say(
    mine: dict[str, Any], theirs: dict[str, Any], later: dict[str, Any]
) -> None:
    live = apply({}, mine, by("me"))
    live = apply(live, theirs, by("they"), force=True)
    kept = owned(live, "me")
    live = apply(live, later, by("they"), force=True)
    fields = {fieldpath.text(p) for p in typed.compare({}, live, SCHEMA).added.paths()}
    assert owned(live, "me") <= fields
    disputed = {fieldpath.text(p) for p in typed.field_set(later, SCHEMA).paths()}
    assert kept - owned(live, "me") <= disputed | {
        path for path in kept if any(path.startswith(d) or d.startswith(path) for d in disputed)
    }


names = st.text("ab.-/", min_size=1, max_size=3)
scalars = st.none() | st.booleans() | st.integers(-5, 5) | names
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)
)
pods = st.fixed_dictionaries(
    {
        "apiVersion": st.just("v1"),
        "kind": st.just("Pod"),
        "metadata": st.fixed_dictionaries(
            {"name": names},
            optional={
                "labels": st.dictionaries(names, names, max_size=3),
                "finalizers": st.lists(names, max_size=4),
                "generateName": names,
                "ownerReferences": st.lists(
                    st.fixed_dictionaries({"uid": names}, optional={"name": names}), max_size=3
                ),
            },
        ),
    },
    optional={"spec": st.dictionaries(names, anything, max_size=3), "status": anything},
)


@given(obj=pods)
def test_a_new_object_is_its_creators_as_a_comparison_with_nothing_says(
    obj: dict[str, Any],
) -> None:
    schema = DEFINITIONS[builtin.PODS.schema]
    expected = fieldpath.encode(typed.field_set(obj, schema, containers=True))
    assert typed.everything(obj, schema) == expected
    assert list(typed.everything(obj, schema)) == list(expected)
    origin = Origin(manager="m", resource=builtin.PODS, now="2026-01-01T00:00:00Z")
    (entry,) = managedfields.track({}, obj, origin) or ({"fieldsV1": {}},)
    owned = typed.field_set(obj, schema, containers=True).without(origin.reset)
    assert entry["fieldsV1"] == fieldpath.encode(owned - managers.OWNERLESS)
