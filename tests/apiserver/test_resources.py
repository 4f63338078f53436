"""The resources over HTTP, against a real server: writes, errors, lists, watches."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from apiserver.api.openapi_files import documents

SPEC = {"podSelector": {"a": "x"}, "allowIncoming": {"toPorts": [{"port": 80}]}}
MERGE = {"Content-Type": "application/merge-patch+json"}
JSON_PATCH = {"Content-Type": "application/json-patch+json"}
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}


def policy(name: str, spec: Any = SPEC, **meta: Any) -> dict[str, Any]:
    return {"kind": "NetworkPolicy", "metadata": {"name": name, **meta}, "spec": spec}


async def create(http: httpx.AsyncClient, path: str, name: str, **meta: Any) -> dict[str, Any]:
    answer = await http.post(path, json=policy(name, **meta))
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


@asynccontextmanager
async def watching(http: httpx.AsyncClient, path: str, **query: Any) -> AsyncIterator[Any]:
    """The events of a watch, one at a time, each within five seconds."""
    async with http.stream("GET", path, params={"watch": "true", **query}) as answer:
        assert answer.status_code == 200
        lines = answer.aiter_lines()

        async def event() -> dict[str, Any]:
            async with asyncio.timeout(5):
                found: dict[str, Any] = json.loads(await anext(lines))
                return found

        yield event


async def test_a_created_policy_has_what_the_server_owns(
    http: httpx.AsyncClient, policies: str
) -> None:
    made = await create(http, policies, "p", uid="mine", generation=7, creationTimestamp="x")
    meta = made["metadata"]
    assert made["apiVersion"] == "net.alpha.kubernetes.io/v1alpha1"
    assert meta["generation"] == 1
    assert meta["uid"] != "mine"
    assert meta["creationTimestamp"].endswith("Z")
    assert meta["namespace"] in policies
    assert (await http.get(f"{policies}/p")).json() == made


@pytest.mark.parametrize(
    ("body", "code", "reason", "words"),
    [
        (b"", 400, "BadRequest", "unexpected end of JSON input"),
        (b"{", 400, "BadRequest", "json parse error"),
        (b"[]", 400, "BadRequest", "not an object"),
        (b'\xff{"kind":"NetworkPolicy"}', 400, "BadRequest", "json parse error"),
        (b'{"kind":"Pod","metadata":{"name":"x"}}', 400, "BadRequest", "must be NetworkPolicy"),
        (b'{"kind":"NetworkPolicy","apiVersion":"v1beta"}', 400, "BadRequest", "(v1beta)"),
        (b'{"kind":"NetworkPolicy","metadata":[]}', 400, "BadRequest", "metadata"),
        (
            b'{"kind":"NetworkPolicy","metadata":{"name":"x","namespace":"elsewhere"}}',
            400,
            "BadRequest",
            "namespace of the provided object does not match",
        ),
        (b"[" * 200_000, 400, "BadRequest", ""),
    ],
)
async def test_a_body_that_cannot_be_read_is_400(
    http: httpx.AsyncClient, policies: str, body: bytes, code: int, reason: str, words: str
) -> None:
    answer = await http.post(policies, content=body)
    found = answer.json()
    assert (answer.status_code, found["kind"], found["reason"]) == (code, "Status", reason)
    assert words in found["message"]


@pytest.mark.parametrize(
    ("obj", "fields"),
    [
        (policy("p", {"allowIncoming": {"toPorts": [{"port": 0}]}}),
         ["spec.allowIncoming.toPorts[0].port"]),
        (policy("p", {"allowIncoming": {"form": []}, "x": 1}),
         ["spec.x", "spec.allowIncoming.form"]),
        (policy("P_"), ["metadata.name"]),
        (policy("p", labels={"-": "x", "a": "-"}), ["metadata.labels", "metadata.labels"]),
        (policy("p", resourceVersion="5"), ["metadata.resourceVersion"]),
        ({"kind": "NetworkPolicy", "spec": SPEC}, ["metadata.name"]),
        ({"kind": "NetworkPolicy", "metadata": {"name": "p"}}, ["spec"]),
    ],
)  # fmt: skip
async def test_a_wrong_object_is_422_with_a_cause_for_each_field(
    http: httpx.AsyncClient, policies: str, obj: Any, fields: list[str]
) -> None:
    answer = await http.post(policies, json=obj)
    found = answer.json()
    assert (answer.status_code, found["reason"]) == (422, "Invalid"), found
    assert sorted(cause["field"] for cause in found["details"]["causes"]) == sorted(fields)


async def test_names_that_are_taken_versions_that_are_stale_and_things_that_are_missing(
    http: httpx.AsyncClient, policies: str
) -> None:
    made = await create(http, policies, "p")
    taken = await http.post(policies, json=policy("p"))
    assert (taken.status_code, taken.json()["reason"]) == (409, "AlreadyExists")
    stale = {**made, "metadata": {**made["metadata"], "resourceVersion": "1"}}
    conflict = await http.put(f"{policies}/p", json=stale)
    assert (conflict.status_code, conflict.json()["reason"]) == (409, "Conflict")
    assert "the object has been modified" in conflict.json()["message"]
    missing = await http.get(f"{policies}/nobody")
    assert (missing.status_code, missing.json()["details"]) == (
        404,
        {"name": "nobody", "group": "net.alpha.kubernetes.io", "kind": "networkpolicys"},
    )
    nowhere = await http.post(policies.replace("test-", "none-"), json=policy("p"))
    assert nowhere.status_code == 404
    assert nowhere.json()["details"]["kind"] == "namespaces"


async def test_fields_that_nobody_knows(http: httpx.AsyncClient, policies: str) -> None:
    odd = {**policy("p", bogus=1), "extra": 1}
    strict = await http.post(policies, json=odd, params={"fieldValidation": "Strict"})
    assert strict.status_code == 400
    for field in ("extra", "metadata.bogus"):
        assert f'unknown field "{field}"' in strict.json()["message"]
    warned = await http.post(policies, json=odd)
    assert warned.status_code == 201
    assert '299 - "unknown field \\"extra\\""' in warned.headers.get_list("warning")
    assert "extra" not in warned.json()
    doubled = b'{"kind":"NetworkPolicy","metadata":{"name":"q"},"spec":{},"spec":{}}'
    answer = await http.post(policies, content=doubled)
    assert '299 - "duplicate field \\"spec\\""' in answer.headers.get_list("warning")
    bad = await http.post(policies, json=odd, params={"fieldValidation": "Maybe"})
    assert bad.status_code == 422


async def test_old_spellings_are_stored_in_the_canonical_one_with_a_warning(
    http: httpx.AsyncClient, policies: str
) -> None:
    old = {"applyTo": {"a": "x"}, "ingress": [{"ports": [{"port": 80}]}]}
    for query in ({}, {"fieldValidation": "Strict"}):
        answer = await http.post(
            policies, json={**policy("x", old), "metadata": {"generateName": "p-"}}, params=query
        )
        assert answer.status_code == 201, answer.text
        stored = {"podSelector": {"a": "x"}, "allowIncoming": [{"toPorts": [{"port": 80}]}]}
        assert answer.json()["spec"] == stored
        assert any("spec.applyTo" in text for text in answer.headers.get_list("warning"))


async def test_a_body_as_curl_sends_it_and_one_in_yaml(
    http: httpx.AsyncClient, policies: str
) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    sent = await http.post(policies + "/", content=json.dumps(policy("p")), headers=form)
    assert sent.status_code == 201
    text = "kind: NetworkPolicy\nmetadata: {name: q}\nspec: {podSelector: {on: 'x'}}\n"
    yaml = {"Content-Type": "application/yaml", "Accept": "application/yaml"}
    answer = await http.post(policies, content=text, headers=yaml)
    assert (answer.status_code, answer.headers["content-type"]) == (201, "application/yaml")
    assert "name: q" in answer.text
    other = await http.post(policies, content="x", headers={"Content-Type": "text/plain"})
    assert (other.status_code, other.json()["reason"]) == (415, "UnsupportedMediaType")


async def test_patches(http: httpx.AsyncClient, policies: str) -> None:
    await create(http, policies, "p")
    path = f"{policies}/p"
    operation = {"op": "replace", "path": "/spec/allowIncoming/toPorts/0/port", "value": 81}
    done = await http.patch(path, json=[operation], headers=JSON_PATCH)
    assert done.json()["spec"]["allowIncoming"]["toPorts"] == [{"port": 81}]
    failing = [operation, {"op": "test", "path": "/metadata/name", "value": "q"}]
    failed = await http.patch(path, json=failing, headers=JSON_PATCH)
    assert failed.status_code == 422
    assert failed.json()["details"]["causes"][0]["field"] == "[1]"
    wrong = await http.patch(path, json={"spec": {"podSelector": 5}}, headers=MERGE)
    assert wrong.json()["details"]["causes"][0]["field"] == "spec.podSelector"
    renamed = await http.patch(path, json={"metadata": {"name": "q"}}, headers=MERGE)
    assert renamed.status_code == 400
    stale = await http.patch(path, json={"metadata": {"resourceVersion": "1"}}, headers=MERGE)
    assert stale.status_code == 409
    old = await http.patch(path, json={"spec": {"ingress": []}}, headers=MERGE)
    assert old.json()["spec"]["allowIncoming"] == []
    typeless = await http.patch(path, json={}, headers={"Content-Type": "application/json"})
    assert typeless.status_code == 415


async def test_DL_deletes_and_finalizers(http: httpx.AsyncClient, policies: str) -> None:
    made = await create(http, policies, "p", finalizers=["example.com/hold"])
    wrong = await http.request("DELETE", f"{policies}/p", json={"preconditions": {"uid": "x"}})
    assert wrong.status_code == 409
    contradiction = await http.request(
        "DELETE", f"{policies}/p?propagationPolicy=Orphan",
        json={"propagationPolicy": "Background"},
    )  # fmt: skip
    assert contradiction.status_code == 400
    tried = await http.request("DELETE", f"{policies}/p?dryRun=All", json={})
    assert tried.status_code == 200
    assert (await http.get(f"{policies}/p")).json() == made
    held = await http.delete(f"{policies}/p")
    assert held.json()["metadata"]["deletionTimestamp"]
    again = await http.post(policies, json=policy("p"))
    assert "object is being deleted" in again.json()["message"]
    gone = await http.patch(f"{policies}/p", json={"metadata": {"finalizers": []}}, headers=MERGE)
    assert gone.status_code == 200
    assert (await http.get(f"{policies}/p")).status_code == 404
    await create(http, policies, "q")
    done = (await http.delete(f"{policies}/q")).json()
    assert (done["status"], done["details"]["name"]) == ("Success", "q")


async def test_lists_in_pages_with_selectors_and_deletecollection(
    http: httpx.AsyncClient, policies: str
) -> None:
    for n in range(7):
        await create(http, policies, f"p{n}", labels={"even": str(n % 2 == 0).lower()})
    first = (await http.get(policies, params={"limit": "3"})).json()
    assert first["metadata"]["remainingItemCount"] == 4
    await create(http, policies, "p11")
    names = [item["metadata"]["name"] for item in first["items"]]
    page = first
    while token := page["metadata"].get("continue"):
        page = (await http.get(policies, params={"limit": "3", "continue": token})).json()
        assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        names += [item["metadata"]["name"] for item in page["items"]]
    assert names == [f"p{n}" for n in range(7)]
    even = (await http.get(policies, params={"labelSelector": "even=true"})).json()
    assert len(even["items"]) == 4
    one = (await http.get(policies, params={"fieldSelector": "metadata.name=p3"})).json()
    assert [item["metadata"]["name"] for item in one["items"]] == ["p3"]
    bad = await http.get(policies, params={"labelSelector": "a b"})
    assert bad.status_code == 400
    deleted = await http.delete(policies, params={"labelSelector": "even=true"})
    assert len(deleted.json()["items"]) == 4
    assert len((await http.get(policies)).json()["items"]) == 4


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"resourceVersion": "abc"}, 400),
        ({"limit": "abc"}, 400),
        ({"continue": "abc"}, 400),
        ({"resourceVersionMatch": "Exact"}, 422),
        ({"resourceVersion": "1", "resourceVersionMatch": "Exact", "x": "y"}, 200),
        ({"sendInitialEvents": "true"}, 422),
        ({"fieldSelector": "spec.bogus=1"}, 400),
    ],
)
async def test_queries(
    http: httpx.AsyncClient, policies: str, query: dict[str, str], code: int
) -> None:
    assert (await http.get(policies, params=query)).status_code == code


async def test_W_a_watch_tells_what_is_there_and_then_what_happens(
    http: httpx.AsyncClient, policies: str
) -> None:
    await create(http, policies, "p")
    async with watching(http, policies) as event:
        assert (await event())["type"] == "ADDED"
        await http.patch(f"{policies}/p", json={"spec": {}}, headers=MERGE)
        changed = await http.patch(
            f"{policies}/p", json={"spec": {"podSelector": None}}, headers=MERGE
        )
        assert (await event())["object"] == changed.json()
        await http.delete(f"{policies}/p")
        deleted = await event()
        assert deleted["type"] == "DELETED"
        assert int(deleted["object"]["metadata"]["resourceVersion"]) > int(
            changed.json()["metadata"]["resourceVersion"]
        )


async def test_the_legacy_prefix_and_the_short_form_of_the_post(
    http: httpx.AsyncClient, policies: str
) -> None:
    await create(http, policies, "p")
    watch = policies.replace("/v1alpha1/", "/v1alpha1/watch/")
    answer = await http.get(watch + "/", params={"timeoutSeconds": "1"})
    assert json.loads(answer.text)["type"] == "ADDED"
    short = policies.replace("/apis/", "/").replace("/namespaces/", "/namespace/") + "/"
    assert (await http.get(short)).json() == (await http.get(policies)).json()


async def test_the_published_documents_are_what_is_served(http: httpx.AsyncClient) -> None:
    folder = Path(__file__).resolve().parents[2] / "openapi"
    for name, content in documents().items():
        assert (folder / name).read_bytes() == content, f"{name}: run make openapi"
    served = (await http.get("/openapi/v2")).json()
    assert served == json.loads((folder / "v2.json").read_bytes())
    index = (await http.get("/openapi/v3")).json()["paths"]
    for path, entry in index.items():
        file = folder / "v3" / f"{path.replace('/', '__')}.json"
        answer = await http.get(entry["serverRelativeURL"])
        assert answer.json() == json.loads(file.read_bytes())
        assert "immutable" in answer.headers["cache-control"]


@pytest.mark.parametrize(
    ("obj", "field"),
    [
        ({"metadata": {"name": "cron-tab.stable.example.com"}, "versions": [{"name": "v1"}]},
         "metadata.name"),
        ({"metadata": {"name": "network-policy.net.alpha.kubernetes.io"}}, "versions"),
    ],
)  # fmt: skip
async def test_a_definition_of_another_group_is_refused(
    http: httpx.AsyncClient, obj: dict[str, Any], field: str
) -> None:
    path = "/apis/extensions/v1beta1/thirdpartyresources"
    answer = await http.post(path, json={"kind": "ThirdPartyResource", **obj})
    assert answer.status_code == 422
    assert answer.json()["details"]["causes"][0]["field"] == field


async def test_a_deleted_namespace_takes_what_is_in_it_along(
    http: httpx.AsyncClient, policies: str
) -> None:
    await create(http, policies, "p")
    name = policies.split("/")[-2]
    path = f"/api/v1/namespaces/{name}"
    plain = {"kind": "Namespace", "metadata": {"name": name}, "spec": {"finalizers": []}}
    assert (await http.put(path, json=plain)).status_code == 200
    answer = await http.delete(f"/api/v1/namespaces/{name}")
    assert answer.json()["status"]["phase"] == "Terminating"
    refused = await http.post(policies, json=policy("q"))
    assert refused.status_code in (403, 404)
    async with asyncio.timeout(5):
        while (await http.get(f"/api/v1/namespaces/{name}")).status_code != 404:
            await asyncio.sleep(0.01)
    assert (await http.get(policies)).json()["items"] == []
    kept = await http.delete("/api/v1/namespaces/default")
    assert kept.status_code == 403
