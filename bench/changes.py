"""Changes of a cluster one by one: how each is asked for, and what the kernel then announces.

Of ten changes four are to policies, half of them new and half gone, three put a label on a pod, one
takes one away, and two are new pods, one of them on the node. No pod is changed twice, and one that
policies are about is so again only after all others: what is announced of an address within some
seconds is the effect of one change.
"""

import itertools
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from bench import connection, policies
from bench.connection import Connection
from bench.population import (
    APPS,
    ELSEWHERE,
    LABELS,
    NODE,
    SPACES,
    Json,
    Objects,
    address,
    pod,
    policy,
)
from bench.witness import Seen
from bench.writers import Request

PEERS, PODS = "p4_", "pods4"  # sets, by the start of their names
ADDRESSES = 2 << 20  # where those of new pods begin
PORTS = 20_000  # where those of new policies begin
KINDS = "label", "policy", "pod", "gone", "label", "policy", "unlabel", "gone", "label", "local pod"


@dataclass(frozen=True, slots=True)
class Effect:
    """An address is added to, or deleted from, a set whose name begins so."""

    name: str
    address: str
    added: bool = True

    def is_in(self, seen: Seen) -> bool:
        return (
            seen.added is self.added
            and seen.name.startswith(self.name)
            and socket.inet_aton(self.address) in seen.keys
        )


@dataclass(frozen=True, slots=True)
class Call:
    """A request to the server, with the object that it is about."""

    method: str
    path: str
    obj: Json | None = None

    @property
    def body(self) -> bytes | None:
        return json.dumps(self.obj).encode() if self.obj is not None else None

    def ask(self, server: Connection) -> None:
        server.ask(self.method, self.path, self.body)

    def written(self, url: str) -> Request:
        """For many connections at once."""
        data = connection.request(self.method, url, self.path, self.body)
        return Request(data, 201 if self.method == "POST" else 200)


@dataclass(frozen=True, slots=True)
class Change:
    """`prepared` goes before it, and changes nothing on the node."""

    kind: str
    call: Call
    effect: Effect
    prepared: tuple[Call, ...] = ()


def changes(objects: Objects) -> Iterator[Change]:
    """Of a cluster that is filled with these, until its pods are used up."""
    local = [item for item in objects.pods if item["spec"]["nodeName"] == NODE]
    remote = (item for item in objects.pods if item["spec"]["nodeName"] == ELSEWHERE)
    targets = itertools.cycle(local)
    old = {
        (item["metadata"]["namespace"], item["spec"]["podSelector"]["app"]): item
        for item in objects.policies
    }
    for number in itertools.count():
        kind = KINDS[number % len(KINDS)]
        if kind in ("label", "unlabel"):
            if (found := next(remote, None)) is None:
                return
            yield _labelled(found, kind)
        elif kind in ("policy", "gone"):
            target = next(targets)
            place = target["metadata"]["namespace"], target["metadata"]["labels"]["app"]
            if kind == "gone" and place in old:
                yield _gone(old.pop(place), target)
            else:
                made = _new_policy(number, *place)
                old[place] = made
                yield Change("policy", creation(made), Effect(PODS, _address(target)))
        else:
            yield _new_pod(number, kind)


def creation(obj: Json) -> Call:
    return Call("POST", collection(obj), obj)


def status(obj: Json) -> Call:
    """The addresses of a pod, which no creation can give it."""
    return Call("PUT", f"{_path(obj)}/status", obj)


def collection(obj: Json) -> str:
    """The path where objects like this one are created."""
    match obj["kind"]:
        case "Namespace":
            return "/api/v1/namespaces"
        case "Pod":
            return f"/api/v1/namespaces/{obj['metadata']['namespace']}/pods"
        case _:
            return policies.collection(obj["metadata"]["namespace"])


def _path(obj: Json) -> str:
    return f"{collection(obj)}/{obj['metadata']['name']}"


def _address(item: Json) -> str:
    found: str = item["status"]["podIP"]
    return found


def _labelled(item: Json, kind: str) -> Change:
    labels = item["metadata"]["labels"]
    # The first ones, which policies name in a small cluster too.
    if kind == "label":
        free = next(f"s{n}" for n in range(LABELS) if f"s{n}" not in labels)
        changed = {**labels, free: "yes"}
    else:
        worn = next(f"s{n}" for n in range(LABELS) if f"s{n}" in labels)
        changed = {key: value for key, value in labels.items() if key != worn}
    made = {**item, "metadata": {**item["metadata"], "labels": changed}}
    effect = Effect(PEERS, _address(item), added=kind == "label")
    return Change(kind, Call("PUT", _path(item), made), effect)


def _gone(item: Json, target: Json) -> Change:
    return Change("gone", Call("DELETE", _path(item)), Effect(PODS, _address(target)))


def _new_policy(number: int, space: str, app: str) -> Json:
    """From pods that have two labels at once, as no other policy says: a peer set of its own."""
    first = number % LABELS
    peers = {f"s{first}": "yes", f"s{(first + 5 * (1 + number % 9)) % LABELS}": "yes"}
    return policy(space, f"new-{number:05}", {"app": app}, [peers], PORTS + number)


def _new_pod(number: int, kind: str) -> Change:
    space, labels = f"space-{number % SPACES}", {"app": f"a{number % APPS}"}
    node, name = (NODE, PODS) if kind == "local pod" else (ELSEWHERE, PEERS)
    labels["s0"] = "yes"
    made = pod(space, f"new-{number:05}", labels, address(number, ADDRESSES), node=node)
    return Change(kind, status(made), Effect(name, _address(made)), (creation(made),))
