"""Sections 7 and 8: errors, and create."""

import json
import re
import uuid
from typing import Any

import httpx
import pytest

from tests.apiserver.test_resources import MERGE, create, policy
from tests.lab.cluster import POLICIES, Api

LIMIT = 3 * 1024 * 1024
MISSING = f"{POLICIES}/namespaces/missing/networkpolicys"


def failure(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()
    assert list(body) == [
        key
        for key in (
            *("kind", "apiVersion", "metadata", "status"),
            *("message", "reason", "details", "code"),
        )
        if key in body
    ]
    assert (body["kind"], body["apiVersion"], body["status"]) == ("Status", "v1", "Failure")
    assert body["code"] == answer.status_code
    return answer.status_code, body["reason"], body["message"]


def causes(answer: httpx.Response) -> list[tuple[str, str]]:
    return [(cause["reason"], cause["field"]) for cause in answer.json()["details"]["causes"]]


async def test_E01_C02_what_cannot_be_decoded_is_400(
    http: httpx.AsyncClient, policies: str
) -> None:
    for body, words in (
        (b"", "unexpected end of JSON input (<empty>)"),
        (b"{", "json parse error"),
        (b"[1]", "not an object"),
        (b'{"metadata": {"name": 5}}', "ObjectMeta.metadata.name: expected string, got 5"),
        (b'{"metadata": {"labels": {"a": 1}}}', "ObjectMeta.metadata.labels.a"),
    ):
        code, reason, message = failure(await http.post(policies, content=body))
        assert (code, reason) == (400, "BadRequest")
        assert words in message


async def test_E04_a_missing_object_is_404(http: httpx.AsyncClient, policies: str) -> None:
    answer = await http.get(f"{policies}/x")
    assert failure(answer) == (
        404,
        "NotFound",
        'networkpolicys.net.alpha.kubernetes.io "x" not found',
    )
    assert answer.json()["details"] == {
        "name": "x",
        "group": "net.alpha.kubernetes.io",
        "kind": "networkpolicys",
    }


async def test_E07_C09_a_taken_name_is_409(http: httpx.AsyncClient, policies: str) -> None:
    await create(http, policies, "p", finalizers=["x.io/y"])
    message = 'networkpolicys.net.alpha.kubernetes.io "p" already exists'
    assert failure(await http.post(policies, json=policy("p"))) == (409, "AlreadyExists", message)
    await http.delete(f"{policies}/p")
    answer = await http.post(policies, json=policy("p"))
    assert failure(answer)[2] == f"object is being deleted: {message}"
    await http.patch(f"{policies}/p", json={"metadata": {"finalizers": None}}, headers=MERGE)


async def test_E08_U03_a_stale_version_is_409(http: httpx.AsyncClient, policies: str) -> None:
    old = await create(http, policies, "p")
    await http.patch(f"{policies}/p", json={"metadata": {"labels": {"a": "b"}}}, headers=MERGE)
    code, reason, message = failure(await http.put(f"{policies}/p", json=old))
    assert (code, reason) == (409, "Conflict")
    assert message == (
        'Operation cannot be fulfilled on networkpolicys.net.alpha.kubernetes.io "p": the object'
        " has been modified; please apply your changes to the latest version and try again"
    )


async def test_E11_FC03_a_large_body_is_413(http: httpx.AsyncClient, policies: str) -> None:
    async def chunks() -> Any:
        for _ in range(4):
            yield b" " * (1024 * 1024)

    for content in (b" " * (LIMIT + 1), chunks()):
        code, reason, message = failure(await http.post(policies, content=content))
        assert (code, reason) == (413, "RequestEntityTooLarge")
        assert message == f"Request entity too large: limit is {LIMIT}"


async def test_E13_E22_an_invalid_object_is_422_with_all_causes(
    http: httpx.AsyncClient, policies: str
) -> None:
    spec = {"podSelector": {"a b": "c"}, "allowIncoming": {"toPorts": [{"port": 0}]}}
    answer = await http.post(policies, json=policy("p", spec))
    code, reason, message = failure(answer)
    assert (code, reason) == (422, "Invalid")
    assert message.startswith('NetworkPolicy.net.alpha.kubernetes.io "p" is invalid: [spec.')
    details = answer.json()["details"]
    assert (details["name"], details["kind"]) == ("p", "NetworkPolicy")
    assert {field for _, field in causes(answer)} == {
        "spec.podSelector",
        "spec.allowIncoming.toPorts[0].port",
    }
    assert not any(c["message"].startswith("spec.") for c in details["causes"])


async def test_C01_a_created_object_is_answered_with_201(
    http: httpx.AsyncClient, policies: str
) -> None:
    answer = await http.post(policies, json=policy("p"))
    assert answer.status_code == 201
    assert "location" not in answer.headers
    assert answer.json() == (await http.get(f"{policies}/p")).json()


async def test_C03_C04_kind_and_version_may_be_absent_but_not_wrong(
    http: httpx.AsyncClient, policies: str
) -> None:
    made = await http.post(policies, json={"metadata": {"name": "p"}, "spec": {}})
    assert made.status_code == 201
    assert made.json()["kind"] == "NetworkPolicy"
    wrong = await http.post(policies, json={**policy("q"), "apiVersion": "apps/v1"})
    assert failure(wrong)[2] == (
        "the API version in the data (apps/v1) does not match the expected API version"
        " (net.alpha.kubernetes.io/v1alpha1)"
    )
    wrong = await http.post(policies, json={**policy("q"), "kind": "Nope"})
    assert 'no kind "Nope" is registered' in failure(wrong)[2]
    assert wrong.status_code == 400


async def test_C05_C07_the_server_owns_the_system_fields(
    http: httpx.AsyncClient, policies: str
) -> None:
    made = await create(
        http,
        policies,
        "p",
        uid="mine",
        creationTimestamp="2001-01-01T00:00:00Z",
        deletionTimestamp="2001-01-01T00:00:00Z",
        deletionGracePeriodSeconds=5,
        generation=7,
        selfLink="x",
    )
    meta = made["metadata"]
    assert uuid.UUID(meta["uid"]).version == 4
    assert re.fullmatch(r"20[2-9]\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", meta["creationTimestamp"])
    assert meta["generation"] == 1
    assert not {"deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"} & set(meta)


async def test_C06_a_version_cannot_be_created(http: httpx.AsyncClient, policies: str) -> None:
    answer = await http.post(policies, json=policy("p", resourceVersion="5"))
    assert answer.status_code == 422
    assert causes(answer) == [("FieldValueForbidden", "metadata.resourceVersion")]
    assert "resourceVersion should not be set on objects to be created" in failure(answer)[2]


async def test_C08_the_namespace_is_that_of_the_url(http: httpx.AsyncClient, policies: str) -> None:
    answer = await http.post(policies, json=policy("p", namespace="other"))
    assert failure(answer) == (
        400,
        "BadRequest",
        "the namespace of the provided object does not match the namespace sent on the request",
    )


@pytest.mark.parametrize("name", ["A", "a_b", "-a", "a/b", "..", "a%b", "x" * 254])
async def test_C09_a_name_is_a_subdomain(http: httpx.AsyncClient, policies: str, name: str) -> None:
    answer = await http.post(policies, json=policy(name))
    assert answer.status_code == 422
    assert set(causes(answer)) == {("FieldValueInvalid", "metadata.name")}


async def test_C09_a_name_is_needed(http: httpx.AsyncClient, policies: str) -> None:
    answer = await http.post(policies, json={"kind": "NetworkPolicy", "spec": {}})
    assert failure(answer)[2].endswith(
        "metadata.name: Required value: name or generateName is required"
    )


async def test_C10_names_are_generated(http: httpx.AsyncClient, policies: str) -> None:
    body: dict[str, Any] = {"kind": "NetworkPolicy", "spec": {}}
    body["metadata"] = {"generateName": "l" * 70}
    meta = (await http.post(policies, json=body)).json()["metadata"]
    assert re.fullmatch(r"l{58}[bcdfghjklmnpqrstvwxz2456789]{5}", meta["name"])
    body["metadata"]["name"] = "fixed"
    meta = (await http.post(policies, json=body)).json()["metadata"]
    assert (meta["name"], meta["generateName"]) == ("fixed", "l" * 70)
    taken = await http.post(policies, json=body)
    assert taken.headers["retry-after"] == "1"
    assert taken.json()["details"]["retryAfterSeconds"] == 1
    assert failure(taken)[2].endswith(
        "already exists, the server was not able to generate a unique name for the object"
    )


async def test_C11_metadata_is_validated_as_a_whole(http: httpx.AsyncClient, policies: str) -> None:
    owner = {"apiVersion": "v1", "kind": "A", "name": "a", "uid": "u", "controller": True}
    answer = await http.post(
        policies,
        json=policy(
            "p",
            labels={"a b": "c", "ok": "x" * 64},
            annotations={"x": "y" * 262144},
            finalizers=["a b"],
            ownerReferences=[
                owner,
                {**owner, "uid": "v"},
                {"apiVersion": "", "kind": "", "name": "", "uid": "w"},
                {"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "x"},
            ],
        ),
    )
    found = causes(answer)
    assert found.count(("FieldValueInvalid", "metadata.labels")) == 2
    assert ("FieldValueTooLong", "metadata.annotations") in found
    assert ("FieldValueInvalid", "metadata.finalizers") in found
    for part in ("apiVersion", "kind", "name"):
        assert ("FieldValueInvalid", f"metadata.ownerReferences.{part}") in found
    text = failure(answer)[2]
    assert "Too long: may not be more than 262144 bytes" in text
    assert (
        'Only one reference can have Controller set to true. Found "true" in references for'
        " A/a and A/a"
    ) in text
    assert "/v1, Kind=Event is disallowed from being an owner" in text


async def test_C11_an_unqualified_finalizer_is_warned_about(
    http: httpx.AsyncClient, policies: str
) -> None:
    answer = await http.post(policies, json=policy("p", finalizers=["bad"]))
    assert answer.status_code == 201
    assert answer.headers["warning"] == (
        '299 - "metadata.finalizers: \\"bad\\": prefer a domain-qualified finalizer name including'
        ' a path (/) to avoid accidental conflicts with other finalizer writers"'
    )
    again = await http.patch(
        f"{policies}/p", json={"metadata": {"labels": {"a": "b"}}}, headers=MERGE
    )
    assert "warning" not in again.headers


async def test_C12_doubled_owners_are_kept_once(http: httpx.AsyncClient, policies: str) -> None:
    owner = {"apiVersion": "v1", "kind": "A", "name": "a", "uid": "u"}
    answer = await http.post(policies, json=policy("p", ownerReferences=[owner, owner]))
    assert answer.json()["metadata"]["ownerReferences"] == [owner]
    assert "duplicate UID(s) observed: u" in answer.headers["warning"]


async def test_C13_U11_a_status_is_not_created(http: httpx.AsyncClient, policies: str) -> None:
    answer = await http.post(policies, json={**policy("p"), "status": {"conditions": []}})
    assert "status" not in answer.json()


async def test_C14_a_namespace_must_be_there_and_alive(http: httpx.AsyncClient) -> None:
    answer = await http.post(MISSING, json=policy("p"))
    assert failure(answer) == (404, "NotFound", 'namespaces "missing" not found')
    assert answer.json()["details"] == {"name": "missing", "kind": "namespaces"}
    await Api(http).namespace("leaving")
    path = MISSING.replace("missing", "leaving")
    await create(http, path, "held", finalizers=["x.io/y"])
    await http.delete("/api/v1/namespaces/leaving")
    answer = await http.post(path, json=policy("p"))
    assert failure(answer) == (
        403,
        "Forbidden",
        'networkpolicys.net.alpha.kubernetes.io "p" is forbidden: unable to create new content in'
        " namespace leaving because it is being terminated",
    )
    assert answer.json()["details"]["causes"] == [
        {
            "reason": "NamespaceTerminating",
            "message": "namespace leaving is being terminated",
            "field": "metadata.namespace",
        }
    ]
    freed = {"metadata": {"finalizers": None}}
    assert (await http.patch(f"{path}/held", json=freed, headers=MERGE)).status_code == 200
    for name in ("default", "kube-system", "kube-public"):
        assert (await http.delete(f"/api/v1/namespaces/{name}")).status_code == 403


async def test_C16_a_dry_run_does_all_but_store(http: httpx.AsyncClient, policies: str) -> None:
    body = {"kind": "NetworkPolicy", "metadata": {"generateName": "a-"}, "spec": {}}
    answer = await http.post(policies, json=body, params={"dryRun": ["All", "All"]})
    assert answer.status_code == 201
    meta = answer.json()["metadata"]
    assert meta["uid"]
    assert meta["name"].startswith("a-")
    assert "resourceVersion" not in meta
    assert (await http.get(policies)).json()["items"] == []
    refused = await http.post(policies, json=body, params={"dryRun": "true"})
    assert failure(refused)[2] == (
        'CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["true"]:'
        ' supported values: "All"'
    )


async def test_C17_the_manager_is_named_or_taken_from_the_agent(
    http: httpx.AsyncClient, policies: str
) -> None:
    async def manager(name: str, agent: str) -> str:
        answer = await http.post(policies, json=policy(name), headers={"User-Agent": agent})
        found: str = answer.json()["metadata"]["managedFields"][0]["manager"]
        return found

    assert await manager("a", "kubectl/v1.32.0 (linux)") == "kubectl"
    assert await manager("b", "") == "unknown"
    assert await manager("c", "x" * 200) == "x" * 128
    for bad in ("x" * 129, "a\x07b"):
        answer = await http.post(policies, json=policy("d"), params={"fieldManager": bad})
        assert answer.status_code == 422
        assert [field for _, field in causes(answer)] == ["fieldManager"]


async def test_C18_F01_F02_F03_F04_fields_that_nobody_knows(
    http: httpx.AsyncClient, policies: str
) -> None:
    text = json.dumps({**policy("p"), "bogus": 1})
    text = text[:-1] + ',"bogus":2,"Spec":{}}'
    text = text.replace('"name": "p"', '"name": "x", "name": "p", "other": 1')

    async def post(validation: str) -> httpx.Response:
        return await http.post(policies, content=text, params={"fieldValidation": validation})

    strict = await post("Strict")
    assert failure(strict) == (
        400,
        "BadRequest",
        'NetworkPolicy in version "v1alpha1" cannot be handled as a NetworkPolicy: strict decoding'
        ' error: duplicate field "bogus", duplicate field "metadata.name",'
        ' unknown field "metadata.other", unknown field "bogus", unknown field "Spec"',
    )
    warned = await post("")
    assert warned.status_code == 201
    assert len(warned.headers.get_list("warning")) == 5
    assert warned.json()["metadata"]["name"] == "p"
    assert not {"bogus", "Spec"} & set(warned.json())
    await http.delete(f"{policies}/p")
    ignored = await post("Ignore")
    assert "warning" not in ignored.headers
    refused = await post("Nope")
    assert failure(refused)[2] == (
        'CreateOptions.meta.k8s.io "" is invalid: fieldValidation: Unsupported value: "Nope":'
        ' supported values: "", "Ignore", "Strict", "Warn"'
    )
    doubled = "kind: NetworkPolicy\nmetadata: {name: y}\nspec: {}\nspec: {}\n"
    answer = await http.post(
        policies,
        content=doubled,
        headers={"Content-Type": "application/yaml"},
        params={"fieldValidation": "Strict"},
    )
    assert 'line 4: key "spec" already set in map' in failure(answer)[2]
