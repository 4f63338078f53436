"""Sections 9, 10 and 11: update and patch."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.apiserver.rows.test_create import causes, failure
from tests.apiserver.test_resources import JSON_PATCH, MERGE, SPEC, create, policy, watching

STRATEGIC = {"Content-Type": "application/strategic-merge-patch+json"}


async def patch(
    http: httpx.AsyncClient, url: str, body: Any, headers: dict[str, str] = MERGE, **query: str
) -> httpx.Response:
    return await http.patch(url, json=body, headers=headers, params=query)


async def test_U01_the_names_of_url_and_body_agree(http: httpx.AsyncClient, policies: str) -> None:
    made = await create(http, policies, "p")
    other = {**made, "metadata": {**made["metadata"], "name": "q"}}
    answer = await http.put(f"{policies}/p", json=other)
    assert failure(answer)[2] == (
        "the name of the object (q) does not match the name on the URL (p)"
    )
    other["metadata"]["name"] = ""
    answer = await http.put(f"{policies}/p", json=other)
    assert failure(answer)[2] == (
        "the name of the object (p based on URL) was undeterminable: name must be provided"
    )
    other["metadata"] |= {"name": "p", "namespace": "elsewhere"}
    assert (await http.put(f"{policies}/p", json=other)).status_code == 400


async def test_U02_an_update_without_a_version_is_unconditional(
    http: httpx.AsyncClient, policies: str
) -> None:
    await create(http, policies, "p")
    answer = await http.put(f"{policies}/p", json=policy("p", {"podSelector": {"z": "z"}}))
    assert answer.status_code == 200
    assert answer.json()["spec"] == {"podSelector": {"z": "z"}}


async def test_U04_a_version_that_is_none_is_400(http: httpx.AsyncClient, policies: str) -> None:
    await create(http, policies, "p")
    answer = await http.put(f"{policies}/p", json=policy("p", resourceVersion="bogus"))
    assert (answer.status_code, answer.json()["reason"]) == (400, "BadRequest")


async def test_U05_another_uid_is_a_conflict(http: httpx.AsyncClient, policies: str) -> None:
    await create(http, policies, "p")
    code, reason, message = failure(await http.put(f"{policies}/p", json=policy("p", uid="zzz")))
    assert (code, reason) == (409, "Conflict")
    assert "Precondition failed: UID in precondition: zzz, UID in object meta: " in message
    assert "/registry/" not in message


async def test_U06_P05_what_is_not_there_is_not_made(
    http: httpx.AsyncClient, policies: str
) -> None:
    assert (await http.put(f"{policies}/p", json=policy("p"))).status_code == 404
    for headers in (MERGE, STRATEGIC):
        assert (await patch(http, f"{policies}/p", {}, headers)).status_code == 404
    assert (await patch(http, f"{policies}/p", [], JSON_PATCH)).status_code == 404


async def test_U07_P06_what_the_server_owns_stays(http: httpx.AsyncClient, policies: str) -> None:
    made = await create(http, policies, "p")
    url = f"{policies}/p"
    ignored = {"generation": 9, "creationTimestamp": "2001-01-01T00:00:00Z", "selfLink": "x"}
    answer = await patch(http, url, {"metadata": ignored})
    assert (answer.status_code, answer.json()) == (200, made)
    fixed = {"uid": "other", "deletionTimestamp": "2030-01-01T00:00:00Z"}
    for name, value in fixed.items():
        answer = await patch(http, url, {"metadata": {name: value}})
        assert answer.status_code == 422
        assert causes(answer) == [("FieldValueInvalid", f"metadata.{name}")]
        assert "field is immutable" in failure(answer)[2]
    renamed = await patch(http, url, {"metadata": {"name": "q"}})
    assert failure(renamed)[2] == (
        "the name of the object (q) does not match the name on the URL (p)"
    )


async def test_U08_generation_counts_changes_of_the_spec(
    http: httpx.AsyncClient, policies: str
) -> None:
    await create(http, policies, "p", finalizers=["x.io/y"])
    url = f"{policies}/p"

    async def generation(body: dict[str, Any], at: str = url) -> int:
        found: int = (await patch(http, at, body)).json()["metadata"]["generation"]
        return found

    assert await generation({"metadata": {"labels": {"a": "b"}}}) == 1
    assert await generation({"status": {"conditions": []}}, f"{url}/status") == 1
    assert await generation({"spec": {"podSelector": {"n": "n"}}}) == 2
    assert (await http.delete(url)).json()["metadata"]["generation"] == 3
    await patch(http, url, {"metadata": {"finalizers": None}})


async def test_U09_an_update_that_changes_nothing_writes_nothing(
    http: httpx.AsyncClient, policies: str
) -> None:
    made = await create(http, policies, "p", labels={"a": "b"})
    url = f"{policies}/p"
    await asyncio.sleep(1.1)  # times have a resolution of seconds
    turned = json.loads(json.dumps(made, sort_keys=True))
    bare = policy("p", SPEC, labels={"a": "b"})
    async with watching(
        http, policies, resourceVersion=made["metadata"]["resourceVersion"]
    ) as event:
        for body in (made, turned, bare):
            answer = await http.put(url, json=body)
            assert (answer.status_code, answer.json()) == (200, made)
        assert (await patch(http, url, {})).json() == made
        assert (await patch(http, url, [], JSON_PATCH)).json() == made
        last = await patch(http, url, {"metadata": {"labels": {"a": "c"}}})
        assert (await event())["object"] == last.json()


async def test_U10_DL08_a_put_replaces_and_the_last_finalizer_lets_go(
    http: httpx.AsyncClient, policies: str
) -> None:
    await create(http, policies, "p", labels={"a": "b"}, finalizers=["x.io/y"])
    url = f"{policies}/p"
    answer = await http.put(url, json=policy("p", {}, finalizers=["x.io/y"]))
    assert "labels" not in answer.json()["metadata"]
    assert answer.json()["spec"] == {}
    await http.delete(url)
    more = await patch(http, url, {"metadata": {"finalizers": ["x.io/y", "x.io/new"]}})
    assert more.status_code == 422
    assert causes(more) == [("FieldValueForbidden", "metadata.finalizers")]
    assert (
        "no new finalizers can be added if the object is being deleted, found new finalizers"
        ' []string{"x.io/new"}' in failure(more)[2]
    )
    assert (await patch(http, url, {"spec": {"podSelector": {"s": "s"}}})).status_code == 200
    tried = await http.put(url, json=policy("p"), params={"dryRun": "All"})
    assert tried.status_code == 200
    assert (await http.get(url)).status_code == 200
    gone = await http.put(url, json=policy("p"))
    assert (gone.status_code, gone.json()["kind"]) == (200, "NetworkPolicy")
    assert (await http.get(url)).status_code == 404


async def test_U11_the_status_and_the_rest_are_written_apart(
    http: httpx.AsyncClient, policies: str
) -> None:
    made = await create(http, policies, "p")
    url = f"{policies}/p"
    conditions = [{"type": "Ready", "status": "True"}]
    body = {**made, "spec": {}, "status": {"conditions": conditions}}
    body["metadata"] = {**made["metadata"], "labels": {"no": "no"}}
    answer = await http.put(f"{url}/status", json=body)
    assert answer.json()["status"] == {"conditions": conditions}
    assert answer.json()["spec"] == SPEC
    assert "labels" not in answer.json()["metadata"]
    assert (await http.get(f"{url}/status")).json() == answer.json()
    for wrong, field in (
        ("x", "status"),
        ({"conditions": {}}, "status.conditions"),
        ({"conditions": [{"type": 1}]}, "status.conditions[type=1].type"),
        ({"conditions": conditions * 2}, "status.conditions"),
    ):
        refused = await patch(http, f"{url}/status", {"status": wrong})
        assert refused.status_code == 422, wrong
        assert [where for _, where in causes(refused)] == [field]
    stale = await http.put(f"{url}/status", json=body)
    assert stale.status_code == 409
    kept = await patch(http, url, {"status": None, "spec": {"podSelector": {"b": "b"}}})
    assert kept.json()["status"] == {"conditions": conditions}


async def test_U13_races_of_patches_are_played_again(
    http: httpx.AsyncClient, policies: str
) -> None:
    await create(http, policies, "p")
    answers = await asyncio.gather(
        *(patch(http, f"{policies}/p", {"metadata": {"labels": {f"l{n}": "x"}}}) for n in range(20))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert len((await http.get(f"{policies}/p")).json()["metadata"]["labels"]) == 20


@pytest.mark.parametrize("media", ["", "application/json", "text/plain"])
async def test_P01_a_patch_says_of_what_kind_it_is(
    http: httpx.AsyncClient, policies: str, media: str
) -> None:
    answer = await http.patch(f"{policies}/p", content="{}", headers={"Content-Type": media})
    assert (answer.status_code, answer.json()["reason"]) == (415, "UnsupportedMediaType")
    assert answer.json()["message"].endswith(
        "application/json-patch+json, application/merge-patch+json,"
        " application/strategic-merge-patch+json, application/apply-patch+yaml"
    )
    with_charset = {"Content-Type": "application/merge-patch+json; charset=utf-8"}
    assert (await patch(http, f"{policies}/p", {}, with_charset)).status_code == 404


async def test_P02_a_strategic_patch_merges_by_key(http: httpx.AsyncClient, policies: str) -> None:
    await create(http, policies, "p", finalizers=["x.io/a"])
    url = f"{policies}/p"
    answer = await patch(http, url, {"metadata": {"finalizers": ["x.io/b"]}}, STRATEGIC)
    assert answer.json()["metadata"]["finalizers"] == ["x.io/a", "x.io/b"]
    for kind, value in (("A", "True"), ("B", "True"), ("A", "False")):
        body = {"status": {"conditions": [{"type": kind, "status": value}]}}
        answer = await patch(http, f"{url}/status", body, STRATEGIC)
    found = {c["type"]: c["status"] for c in answer.json()["status"]["conditions"]}
    assert found == {"A": "False", "B": "True"}
    ports = {"spec": {"allowIncoming": {"toPorts": [{"port": 9}]}}}
    answer = await patch(http, url, ports, STRATEGIC)
    assert answer.json()["spec"]["allowIncoming"]["toPorts"] == [{"port": 9}]
    await patch(http, url, {"metadata": {"finalizers": None}})


async def test_P03_a_merge_patch_deletes_by_null_and_may_have_a_precondition(
    http: httpx.AsyncClient, policies: str
) -> None:
    made = await create(http, policies, "p", labels={"a": "b", "c": "d"})
    url = f"{policies}/p"
    version = made["metadata"]["resourceVersion"]
    body = {"metadata": {"labels": {"a": None}, "resourceVersion": version}}
    answer = await patch(http, url, body)
    assert answer.json()["metadata"]["labels"] == {"c": "d"}
    assert (await patch(http, url, body)).status_code == 409
    broken = await patch(http, url, [1])
    assert failure(broken)[:2] == (400, "BadRequest")
    assert failure(broken)[2].startswith("error decoding patch: ")


async def test_P04_E11_a_json_patch_names_the_operation_that_failed(
    http: httpx.AsyncClient, policies: str
) -> None:
    spec = {"allowIncoming": {"toPorts": [{"port": n} for n in (1, 2, 3)]}}
    assert (await http.post(policies, json=policy("p", spec))).status_code == 201
    url, ports = f"{policies}/p", "/spec/allowIncoming/toPorts"
    answer = await patch(
        http,
        url,
        [
            {"op": "test", "path": f"{ports}/0/port", "value": 1},
            {"op": "remove", "path": f"{ports}/-1"},
            {"op": "add", "path": f"{ports}/-", "value": {"port": 4}},
            {"op": "add", "path": "/metadata/labels", "value": {}},
            {"op": "add", "path": "/metadata/labels/x.io~1y", "value": "z"},
            {"op": "copy", "from": f"{ports}/0", "path": f"{ports}/0"},
            {"op": "move", "from": f"{ports}/1", "path": f"{ports}/2"},
        ],
        JSON_PATCH,
    )
    assert answer.status_code == 200, answer.text
    found = answer.json()["spec"]["allowIncoming"]["toPorts"]
    assert [port["port"] for port in found] == [1, 2, 1, 4]
    assert answer.json()["metadata"]["labels"] == {"x.io/y": "z"}
    for operation, reason, words in (
        ({"op": "test", "path": "/kind", "value": "x"}, "JSONPatchTestFailed", "the test failed"),
        ({"op": "remove", "path": "/nope"}, "JSONPatchFailed", "there is no 'nope'"),
        ({"op": "what", "path": "/kind"}, "JSONPatchFailed", "unknown operation"),
        ({"op": "add", "path": f"{ports}/9", "value": 1}, "JSONPatchFailed", "out of range"),
    ):
        noop = {"op": "test", "path": "/kind", "value": "NetworkPolicy"}
        answer = await patch(http, url, [noop, operation], JSON_PATCH)
        assert failure(answer)[:2] == (422, "Invalid")
        (cause,) = answer.json()["details"]["causes"]
        assert (cause["reason"], cause["field"]) == (reason, "[1]")
        assert words in cause["message"]
    broken = await patch(http, url, {"op": "add"}, JSON_PATCH)
    assert failure(broken)[2] == (
        "error decoding patch: json: cannot unmarshal object into Go value of type"
        " []handlers.jsonPatchOp"
    )
    many = await patch(http, url, [noop] * 10_001, JSON_PATCH)
    assert failure(many) == (
        413,
        "RequestEntityTooLarge",
        "Request entity too large: The allowed maximum operations in a JSON patch is 10000,"
        " got 10001",
    )


async def test_P07_P10_options_of_a_patch_are_validated(
    http: httpx.AsyncClient, policies: str
) -> None:
    await create(http, policies, "p")
    url = f"{policies}/p"
    forced = await patch(http, url, {}, force="true")
    assert failure(forced)[2] == (
        'PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for'
        " non-apply patch"
    )
    tried = await patch(http, url, {"metadata": {"labels": {"a": "b"}}}, dryRun="All")
    assert tried.json()["metadata"]["labels"] == {"a": "b"}
    assert "labels" not in (await http.get(url)).json()["metadata"]
    bad = await patch(http, url, {}, dryRun="x", fieldManager="y" * 200, fieldValidation="z")
    assert {field for _, field in causes(bad)} == {"dryRun", "fieldManager", "fieldValidation"}


async def test_P08_unknown_fields_of_a_patch(http: httpx.AsyncClient, policies: str) -> None:
    made = await create(http, policies, "p")
    url = f"{policies}/p"
    warned = await patch(http, url, {"bogus": 1})
    assert (warned.status_code, warned.json()) == (200, made)
    assert warned.headers["warning"] == '299 - "unknown field \\"bogus\\""'
    strict = await patch(http, url, {"bogus": 1}, fieldValidation="Strict")
    assert failure(strict)[:2] == (422, "Invalid")
    assert failure(strict)[2].endswith('strict decoding error: unknown field "bogus"')


async def test_P09_what_a_patch_makes_is_validated(http: httpx.AsyncClient, policies: str) -> None:
    await create(http, policies, "p")
    answer = await patch(
        http, f"{policies}/p", {"spec": {"allowIncoming": {"toPorts": [{"port": 0}]}}}
    )
    assert answer.status_code == 422
    assert causes(answer) == [("FieldValueInvalid", "spec.allowIncoming.toPorts[0].port")]
