"""Nothing that a client sends makes the server fail: schemathesis, and worse.

A 504 that says why is an answer, not a failure: a client asked for a revision of the future.
"""

import asyncio
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import status_code_conformance

from apiserver.api import builtin, openapi
from tests.lab.cluster import POLICIES
from tests.lab.processes import Server

GROUP = openapi.documents_v3(builtin.ALL)["apis/net.alpha.kubernetes.io/v1alpha1"]
CORE = openapi.documents_v3(builtin.ALL)["api/v1"]
UNFORESEEN = "request failed"  # what the server logs of a failure that nobody foresaw

Case = schemathesis.Case[Any]

network = schemathesis.openapi.from_dict(GROUP)
core = schemathesis.openapi.from_dict(CORE)
few = settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as opened:
        opened.trust_env = False
        yield opened


def check(case: Case, server: Server, session: requests.Session) -> None:
    if "namespace" in (case.path_parameters or {}):
        case.path_parameters["namespace"] = "default"
    query = case.query = dict(case.query or {})
    if "/watch/" in case.path or "watch" in query:
        query["timeoutSeconds"] = -1  # ends at once
    response = case.call(base_url=server.url, session=session, timeout=20)
    asked_too_much = response.status_code == 504 and b"ResourceVersionTooLarge" in response.content
    checks = [status_code_conformance]
    case.validate_response(
        response, checks=checks if asked_too_much else [*checks, not_a_server_error]
    )


@network.parametrize()
@few
def test_policies_answer_with_what_is_published(
    case: Case, server: Server, session: requests.Session
) -> None:
    check(case, server, session)


@core.parametrize()
@few
def test_the_core_group_answers_with_what_is_published(
    case: Case, server: Server, session: requests.Session
) -> None:
    check(case, server, session)


VALUES: list[Any] = [
    None, True, 0, -1, 1 << 63, 1 << 70, 1.5, "", "a", "\x00", "é" * 300, "a/b", "..", [], {},
    [None], {"": None}, {"a": {"b": []}}, [[[]]], {"$patch": "delete"}, {"matchLabels": 3},
    "2024-01-01",
]  # fmt: skip
KEYS = [
    "kind", "apiVersion", "metadata", "spec", "status", "name", "namespace", "labels",
    "annotations", "finalizers", "ownerReferences", "managedFields", "resourceVersion",
    "uid", "generation",
    "deletionTimestamp", "generateName", "podSelector", "allowIncoming", "from", "toPorts", "port",
    "protocol", "conditions", "preconditions", "propagationPolicy", "dryRun", "op", "path", "value",
    "fieldsV1", "operation", "manager", "fieldsType",
]  # fmt: skip
TYPES = [
    "application/json", "application/yaml", "application/json-patch+json", "text/plain", "",
    "application/merge-patch+json", "application/strategic-merge-patch+json", ";;;", "é",
    "application/apply-patch+yaml", "application/vnd.kubernetes.protobuf",
]  # fmt: skip
ACCEPTS = [
    "*/*", "application/json", "application/yaml", "", "text/html", "application/json;q=x", ",,;=",
    "application/json;as=Table;v=v1;g=meta.k8s.io", "application/json;as=Foo",
    "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
]  # fmt: skip
QUERIES = [
    "limit", "continue", "resourceVersion", "resourceVersionMatch", "labelSelector", "pretty",
    "fieldSelector", "dryRun", "fieldManager", "fieldValidation", "force", "propagationPolicy",
    "gracePeriodSeconds", "includeObject", "timeout", "orphanDependents", "sendInitialEvents",
]  # fmt: skip
TEXTS = [
    "", "0", "1", "-1", "abc", "All", "Strict", "true", "a=b,c in (d)", "a in (", "x!=y", "Exact",
    "metadata.name=p", "spec.podSelector.a=b", "Foreground", "NotOlderThan", "%00", "5s", "Object",
    "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhXHUwMDAwIn0",
]  # fmt: skip
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]
PATHS = [
    f"{POLICIES}/namespaces/default/networkpolicys",
    f"{POLICIES}/namespaces/default/networkpolicys/p",
    f"{POLICIES}/namespaces/default/networkpolicys/p/status",
    f"{POLICIES}/networkpolicys",
    f"{POLICIES}/namespaces/%00/networkpolicys/..",
    f"{POLICIES}/namespaces//networkpolicys",
    "/api/v1/namespaces/default/pods/p",
    "/api/v1/namespaces/p",
    "/apis/extensions/v1beta1/thirdpartyresources",
    "/openapi/v3/x", "/apis", "/", "//", "/healthz/x", "/metrics", "/version",
]  # fmt: skip


class Fuzz:
    """Random requests that are close enough to good ones to get far."""

    def __init__(self, seed: int) -> None:
        self._rand = random.Random(seed)

    def _value(self, depth: int) -> Any:
        rand = self._rand
        if depth == 0 or rand.random() < 0.3:
            return rand.choice(VALUES)
        if rand.random() < 0.3:
            return [self._value(depth - 1) for _ in range(rand.randrange(3))]
        return {rand.choice(KEYS): self._value(depth - 1) for _ in range(rand.randrange(5))}

    def body(self) -> bytes:
        rand = self._rand
        kind = rand.random()
        if kind < 0.1:
            return rand.randbytes(rand.randrange(60))
        if kind < 0.3:
            operations = ["add", "remove", "replace", "move", "copy", "test", "nope"]
            paths = [
                "",
                "/metadata/name",
                "/spec",
                "/spec/allowIncoming/-1",
                "/a~1b",
                "/metadata/-",
            ]
            return orjson.dumps(
                [
                    {
                        "op": rand.choice(operations),
                        "path": rand.choice(paths),
                        "from": rand.choice(paths),
                        "value": rand.choice(VALUES[:4]),
                    }
                    for _ in range(3)
                ]
            )
        head = {"apiVersion": "net.alpha.kubernetes.io/v1alpha1", "kind": "NetworkPolicy"}
        meta = {"name": "p", **({"labels": self._value(1)} if rand.random() < 0.3 else {})}
        extra = self._value(4)
        made = {**head, "metadata": meta, "spec": {}, **(extra if isinstance(extra, dict) else {})}
        try:
            data = orjson.dumps(made)
        except TypeError:
            data = repr(made).encode()  # nearly YAML
        return data[: rand.randrange(len(data))] if rand.random() < 0.1 else data

    def request(self) -> dict[str, Any]:
        rand = self._rand
        headers = {"Content-Type": rand.choice(TYPES), "Accept": rand.choice(ACCEPTS)}
        return {
            "method": rand.choice(METHODS),
            "url": rand.choice(PATHS),
            "params": [
                (rand.choice(QUERIES), rand.choice(TEXTS)) for _ in range(rand.randrange(4))
            ],
            "headers": {name: value.encode() for name, value in headers.items()},
            "content": self.body() if rand.random() < 0.7 else b"",
        }


@pytest.mark.parametrize("seed", range(4))
async def test_random_requests_find_no_failure(
    seed: int, server: Server, http: httpx.AsyncClient
) -> None:
    fuzz = Fuzz(seed)
    limit = asyncio.Semaphore(8)

    async def one() -> None:
        request = fuzz.request()
        async with limit:
            answer = await http.request(**request)
        if answer.status_code >= 500:
            assert answer.status_code == 504, (request, answer.text)
            assert "ResourceVersionTooLarge" in answer.text, (request, answer.text)
        if answer.status_code >= 400 and answer.content and answer.status_code != 404:
            assert b"Status" in answer.content, (request, answer.text)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(400):
            tasks.create_task(one())
    log = Path(server.log).read_text()
    assert not re.search(f"{UNFORESEEN}|Traceback", log), log[-3000:]
