"""The objects of a run: network policies of an ordinary size, made over the API."""

import json

from bench.connection import Connection

ROOT = "/apis/net.alpha.kubernetes.io/v1alpha1"


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


def fill(server: Connection, namespace: str, count: int) -> list[str]:
    """Make a namespace with so many policies; their names, in order."""
    made = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": namespace}}
    server.ask("POST", "/api/v1/namespaces", json.dumps(made).encode())
    names = [f"policy-{number:05}" for number in range(count)]
    for name in names:
        server.ask("POST", collection(namespace), policy(name))
    return names
