"""Whatever comes first, the same ruleset comes of it."""

import itertools
import random
from collections.abc import Iterable
from typing import Any

from enforcer.compile import Compiler
from enforcer.model import NAMESPACES, PODS, POLICIES, Model
from enforcer.reflector import Apply, Replace
from policy import ISOLATION_ANNOTATION

NODE = "n1"
Event = tuple[str, dict[str, Any], bool]  # resource, object, whether it was deleted


def namespace(name: str, isolation: str | None = None, **labels: str) -> dict[str, Any]:
    notes = {ISOLATION_ANNOTATION: isolation} if isolation else {}
    return {"metadata": {"name": name, "labels": labels, "annotations": notes}}


def pod(space: str, name: str, ip: str = "", **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"namespace": space, "name": name, "labels": labels},
        "spec": {"nodeName": NODE},
        "status": {"phase": "Running", "podIPs": [{"ip": ip}] if ip else []},
    }


def allow(space: str, name: str, role: str, peer: dict[str, Any], port: int) -> dict[str, Any]:
    rule = {"from": [peer], "toPorts": [{"port": port}]}
    spec = {"podSelector": {"role": role}, "allowIncoming": rule}
    return {"metadata": {"namespace": space, "name": name}, "spec": spec}


# What each object goes through; only the order within a row is given.
HISTORIES: tuple[tuple[Event, ...], ...] = (
    (
        (NAMESPACES, namespace("a", "on", team="x"), False),
        (NAMESPACES, namespace("a", "on", team="x"), True),
        (NAMESPACES, namespace("a", "on", team="y"), False),
    ),
    (
        (NAMESPACES, namespace("b", "on"), False),
        (NAMESPACES, namespace("b"), False),
    ),
    (
        (PODS, pod("a", "back", role="front"), False),
        (PODS, pod("a", "back", role="back"), False),
        (PODS, pod("a", "back", "10.0.0.1", role="back"), False),
    ),
    (
        (PODS, pod("a", "front", "10.0.0.9", role="back"), False),
        (PODS, pod("a", "front", "10.0.0.2", role="front"), False),
    ),
    (
        (PODS, pod("b", "old", "10.0.0.1"), False),
        (PODS, pod("b", "old", "10.0.0.1"), True),
    ),
    (
        (POLICIES, allow("a", "p", "back", {"pods": {"role": "front"}}, 81), False),
        (POLICIES, allow("a", "p", "back", {"pods": {"role": "front"}}, 80), False),
    ),
    ((POLICIES, allow("a", "q", "back", {"namespaces": {"team": "y"}}, 443), False),),
    (
        (POLICIES, allow("b", "p", "front", {"pods": {}}, 80), False),
        (POLICIES, allow("b", "p", "front", {"pods": {}}, 80), True),
    ),
)


def digest(events: Iterable[Event], *, every: int) -> str:
    """Of the ruleset after the events, computed anew after every few."""
    model = Model(Compiler(node=NODE))
    for resource in (NAMESPACES, PODS, POLICIES):
        model.tell(resource, Replace(()))
    for number, (resource, obj, deleted) in enumerate(events):
        model.tell(resource, Apply(obj, deleted=deleted))
        if number % every == 0:
            model.compiler.take()
    model.compiler.take()
    return model.compiler.rules.digest()


def end() -> list[Event]:
    """Only what is left."""
    return [rows[-1] for rows in HISTORIES if not rows[-1][2]]


def test_D30_every_order_of_events_ends_in_the_same_ruleset() -> None:
    wanted = digest(end(), every=1)
    assert all(digest(order, every=1) == wanted for order in itertools.permutations(end()))
    rand = random.Random(30)
    for number in range(500):
        turns = [row for row, events in enumerate(HISTORIES) for _ in events]
        rand.shuffle(turns)
        rows = [iter(events) for events in HISTORIES]
        merged = [next(rows[row]) for row in turns]
        assert digest(merged, every=1 + number % 5) == wanted, merged


def test_D30_a_ruleset_of_something_else_differs() -> None:
    assert digest(end()[:-1], every=1) != digest(end(), every=1)
