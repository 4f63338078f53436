"""What the state of a resource finds by label and field, and what it makes of broken values."""

import random
from collections.abc import Mapping

import orjson
import pytest

from apiserver.api import builtin, selectors
from apiserver.cache import index
from apiserver.cache.objects import Objects
from apiserver.cache.session import View, seen
from storage import Event, EventType, Record

PODS = builtin.PODS


def objects() -> Objects:
    return Objects(resource=PODS, revision=1, capacity=1000, limit=1 << 20)


def value(labels: Mapping[str, str], node: str = "", name: str = "p") -> bytes:
    return orjson.dumps({"metadata": {"name": name, "labels": labels}, "spec": {"nodeName": node}})


def view(labels: str = "", fields: str = "", prefix: str = PODS.prefix) -> View:
    return View(prefix, selectors.parse_labels(labels), selectors.parse_fields(fields, PODS))


def put(state: Objects, revision: int, key: str, data: bytes | None) -> None:
    old = state.get(PODS.prefix + key)
    kind = (
        EventType.DELETED if data is None else EventType.CREATED if not old else EventType.UPDATED
    )
    state.apply(Event(kind, PODS.prefix + key, revision, data, None))


def test_an_index_answers_as_a_look_at_each_object_would() -> None:
    rand = random.Random(3)
    state = objects()
    for revision in range(2, 1_500):
        given = {name: str(rand.randrange(9)) for name in "abc" if rand.random() < 0.7}
        data = value(given, f"node-{rand.randrange(5)}") if rand.random() < 0.7 else None
        put(state, revision, f"ns{rand.randrange(3)}/{rand.randrange(80)}", data)
    everything = state.under(PODS.prefix)
    assert len(everything) > 100
    for labels in ("a=1", "a in (1,2,7)", "a=1,b=2", "a!=1", "!a", "a=1,!b", "a=none", "b>4", "c"):
        for fields in ("", "spec.nodeName=node-1", "spec.nodeName!=node-1,status.phase="):
            for prefix in (PODS.prefix, f"{PODS.prefix}ns1/"):
                asked = view(labels, fields, prefix)
                found = [item for item in state.candidates(asked) if asked.shows(item)]
                assert found == [item for item in everything if asked.shows(item)]


def test_a_selective_list_looks_at_few_objects() -> None:
    state = objects()
    for number in range(1_000):
        data = value({"unique": str(number), "all": "yes"}, f"node-{number % 100}")
        state.load(Record(f"{PODS.prefix}ns/{number:04}", data, number + 2, number + 2))
    assert len(state.candidates(view("unique=77"))) == 1
    assert len(state.candidates(view("all=yes,unique in (1,2)"))) == 2
    assert len(state.candidates(view("", "spec.nodeName=node-3"))) == 10
    assert len(state.candidates(view("", "metadata.name=0003", f"{PODS.prefix}ns/"))) == 1
    # An index that would give most of them is no help.
    assert len(state.candidates(view("all=yes"))) == 1_000


def test_an_index_forgets_what_is_gone() -> None:
    found = index.Index()
    for key in ("x", "y", "z"):
        found.add(key, {"a": "1", "b": key})
    assert (found.count("a", "1"), sorted(found.find("a", ["1", "2"]))) == (3, ["x", "y", "z"])
    for key in ("x", "y", "z"):
        found.remove(key, {"a": "1", "b": key})
    assert not found._keys


@pytest.mark.parametrize("broken", [b"{", b"[]", b"null", b'"text"', b'{"metadata":1}', b"k8s\0\n"])
def test_a_value_that_does_not_decode_stands_for_no_object(broken: bytes) -> None:
    state = objects()
    put(state, 2, "ns/good", value({}))
    put(state, 3, "ns/p", value({"a": "1"}))
    put(state, 4, "ns/p", broken)
    key = f"{PODS.prefix}ns/p"
    assert state.get(key) is None
    assert list(state.broken) == [key]
    assert [item.key for item in state.under(PODS.prefix)] == [f"{PODS.prefix}ns/good"]
    put(state, 5, "ns/p", value({"a": "2"}))
    assert not state.broken
    put(state, 6, "ns/p", broken)
    put(state, 7, "ns/p", None)
    assert not state.broken
    changes = state.ring.read(0, count=99, limit=1 << 20)
    assert [(event.type, event.item.revision) for event in seen(view(), changes)] == [
        ("ADDED", 2), ("ADDED", 3), ("DELETED", 4), ("ADDED", 5), ("DELETED", 6),
    ]  # fmt: skip


def test_labels_that_are_no_text_are_not_selected_by() -> None:
    state = objects()
    data = orjson.dumps({"metadata": {"name": "p", "labels": {"a": ["x"], "b": "1", "c": None}}})
    put(state, 2, "ns/p", data)
    assert [item.key for item in state.candidates(view("b=1"))] == [f"{PODS.prefix}ns/p"]
    put(state, 3, "ns/p", None)


def test_who_has_gone_is_not_called() -> None:
    state = objects()
    called: list[str] = []

    def one() -> None:
        called.append("one")

    def two() -> None:
        called.append("two")

    for call in (one, two, one):
        state.on_change(call)
    state.forget(two)
    state.wake()
    state.wake()
    assert called == ["one"]


def test_what_was_before_is_told_as_it_was_seen() -> None:
    state = objects()
    old, new = value({"a": "1"}), value({"a": "2"})
    key = f"{PODS.prefix}ns/p"
    events = [
        Event(EventType.CREATED, key, 2, old, None),
        Event(EventType.UPDATED, key, 3, new, old),
        Event(EventType.UPDATED, key, 4, b"{", new),
        Event(EventType.UPDATED, key, 5, new, b"{"),
        Event(EventType.DELETED, key, 6, None, new),
    ]
    changes = [change for event in events if (change := state.past(event))]
    told = [(event.type, event.item.revision) for event in seen(view(), changes)]
    assert told == [("ADDED", 2), ("MODIFIED", 3), ("DELETED", 4), ("ADDED", 5), ("DELETED", 6)]
    selected = [(event.type, event.item.revision) for event in seen(view("a=1"), changes)]
    assert selected == [("ADDED", 2), ("DELETED", 3)]
    assert not state.under(PODS.prefix)
