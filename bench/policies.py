"""The objects of a run: ordinary network policies, made over the API or as they are stored."""

import itertools
import json
import uuid
from collections.abc import Iterator
from typing import Any

from apiserver.api import encoding
from apiserver.api.builtin import NETWORKPOLICYS
from bench import connection
from bench.connection import Connection
from bench.writers import Request, Writers

ROOT = "/apis/net.alpha.kubernetes.io/v1alpha1"
EVERYWHERE = f"{ROOT}/networkpolicys"
SIZE = 1_000  # bytes of a stored object, about
NAMESPACES = 100  # that `stored` spreads its objects over
FILLING = 8  # connections that make objects


def collection(namespace: str) -> str:
    return f"{ROOT}/namespaces/{namespace}/networkpolicys"


def policy(name: str, *, turn: int = 0) -> bytes:
    """A policy as JSON; `turn` is what an update changes."""
    return json.dumps(
        {
            "kind": "NetworkPolicy",
            "apiVersion": "net.alpha.kubernetes.io/v1alpha1",
            "metadata": {"name": name, "labels": {"app": "bench", "turn": f"{turn:06}"}},
            "spec": {
                "podSelector": {"segment": "backend"},
                "allowIncoming": {
                    "from": [{"pods": {"segment": "frontend"}}],
                    "toPorts": [{"port": 80, "protocol": "TCP"}],
                },
            },
        }
    ).encode()


def creation(url: str, namespace: str, name: str) -> Request:
    return Request(
        connection.request("POST", url, collection(namespace), policy(name)),
        201,
    )


def creations(url: str, namespace: str, prefix: str) -> Iterator[Request]:
    """Requests without end, each for a new name; they are cut from one, which costs little."""
    marker = f"{prefix}-{0:07}"
    before, after = creation(url, namespace, marker).data.split(marker.encode())
    for number in itertools.count():
        yield Request(b"%s%s-%07d%s" % (before, prefix.encode(), number, after), 201)


def make_namespace(server: Connection, namespace: str) -> None:
    made = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": namespace}}
    server.ask("POST", "/api/v1/namespaces", json.dumps(made).encode())


def fill(url: str, namespace: str, count: int) -> list[str]:
    """Make a namespace with so many policies; their names, in order."""
    with Connection(url) as server:
        make_namespace(server, namespace)
    names = [f"policy-{number:05}" for number in range(count)]
    requests = (creation(url, namespace, name) for name in names)
    with Writers(url, [requests] * FILLING) as writers:
        writers.write(count)
    return names


def version(answer: bytes) -> str:
    """The resourceVersion of an object or a list."""
    found: str = json.loads(answer)["metadata"]["resourceVersion"]
    return found


def as_stored(answer: bytes) -> bytes:
    """What the server keeps of an object that it answers with."""
    return encoding.encode_stored(json.loads(answer))


def stored(count: int, picked: int) -> Iterator[tuple[str, bytes]]:
    """Keys and values of policies of 1 KB, of which so many have the label `pick=yes`."""
    for number in range(count):
        namespace, name = f"space-{number % NAMESPACES:03}", f"policy-{number:06}"
        labels = {"app": f"app-{number % 1_000:03}", "tier": "backend"}
        if number % (count // picked) == 0:
            labels["pick"] = "yes"
        yield (
            f"{NETWORKPOLICYS.prefix}{namespace}/{name}",
            encoding.encode_stored(_finished(namespace, name, labels)),
        )


def _finished(namespace: str, name: str, labels: dict[str, str]) -> dict[str, Any]:
    """A policy with what the server adds to it, made longer by an annotation."""
    made = "2026-01-01T00:00:00Z"
    fields = {
        "f:metadata": {"f:labels": {".": {}, **{f"f:{label}": {} for label in labels}}},
        "f:spec": {".": {}, "f:allowIncoming": {}, "f:podSelector": {}},
    }
    obj: dict[str, Any] = json.loads(policy(name))
    obj["metadata"] = {
        "name": name,
        "namespace": namespace,
        "labels": labels,
        "uid": str(uuid.uuid5(uuid.NAMESPACE_OID, name)),
        "creationTimestamp": made,
        "generation": 1,
        "managedFields": [
            {
                "manager": "bench",
                "operation": "Update",
                "apiVersion": obj["apiVersion"],
                "time": made,
                "fieldsType": "FieldsV1",
                "fieldsV1": fields,
            }
        ],
    }
    rest = SIZE - len(encoding.encode_stored(obj))
    obj["metadata"]["annotations"] = {"description": "x" * max(0, rest - 35)}
    return obj
