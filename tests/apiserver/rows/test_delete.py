"""Section 13: delete, deletecollection, finalizers."""

from typing import Any

import httpx
import pytest

from tests.apiserver.rows.test_create import failure
from tests.apiserver.test_resources import MERGE, create, watching
from tests.lab.cluster import Api


async def delete(http: httpx.AsyncClient, url: str, body: Any = None, **query: Any) -> Any:
    return await http.request("DELETE", url, json=body, params=query)


async def release(http: httpx.AsyncClient, url: str) -> httpx.Response:
    return await http.patch(url, json={"metadata": {"finalizers": None}}, headers=MERGE)


async def test_DL01_DL10_E21_a_deletion_is_a_success_with_the_uid(
    http: httpx.AsyncClient, policies: str
) -> None:
    made = await create(http, policies, "p")
    answer = await delete(http, f"{policies}/p")
    assert answer.status_code == 200
    assert answer.json() == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {
            "name": "p",
            "group": "net.alpha.kubernetes.io",
            "kind": "networkpolicys",
            "uid": made["metadata"]["uid"],
        },
    }
    again = await delete(http, f"{policies}/p", {"preconditions": {"uid": "x"}})
    assert again.status_code == 404


async def test_DL02_a_finalizer_keeps_the_object(http: httpx.AsyncClient, policies: str) -> None:
    await create(http, policies, "p", finalizers=["x.io/y"])
    url = f"{policies}/p"
    first = await delete(http, url)
    meta = first.json()["metadata"]
    assert (first.status_code, first.json()["kind"]) == (200, "NetworkPolicy")
    assert meta["deletionTimestamp"].endswith("Z")
    assert (meta["deletionGracePeriodSeconds"], meta["generation"]) == (0, 2)
    second = await delete(http, url)
    assert (second.status_code, second.json()) == (200, first.json())
    legacy = await delete(http, url, orphanDependents="false")
    assert legacy.status_code == 202
    assert (await release(http, url)).status_code == 200
    assert (await http.get(url)).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"kind": "DeleteOptions", "apiVersion": "v1"},
        {"kind": "DeleteOptions", "apiVersion": "net.alpha.kubernetes.io/v1alpha1"},
        {"propagationPolicy": "Background", "unknown": 1},
    ],
)
async def test_DL03_options_come_in_the_body(
    http: httpx.AsyncClient, policies: str, body: Any
) -> None:
    await create(http, policies, "p")
    assert (await delete(http, f"{policies}/p", body)).status_code == 200


async def test_DL03_bad_options_are_400(http: httpx.AsyncClient, policies: str) -> None:
    await create(http, policies, "p")
    url = f"{policies}/p"
    assert 'no kind "Foo" is registered' in failure(await delete(http, url, {"kind": "Foo"}))[2]
    broken = await http.request("DELETE", url, content=b"{")
    assert "json parse error" in failure(broken)[2]
    number = await delete(http, url, gracePeriodSeconds="abc")
    assert failure(number)[2] == 'strconv.ParseInt: parsing "abc": invalid syntax'
    yaml = await http.request(
        "DELETE",
        url,
        content="propagationPolicy: Background",
        headers={"Content-Type": "application/yaml"},
    )
    assert yaml.status_code == 200


async def test_DL04_body_and_query_are_honoured_together(
    http: httpx.AsyncClient, policies: str
) -> None:
    await create(http, policies, "p")
    url = f"{policies}/p"
    tried = await delete(http, url, {"kind": "DeleteOptions"}, dryRun="All")
    assert tried.status_code == 200
    assert (await http.get(url)).status_code == 200
    clash = await delete(http, url, {"propagationPolicy": "Orphan"}, propagationPolicy="Background")
    assert failure(clash)[:2] == (400, "BadRequest")
    assert (await http.get(url)).status_code == 200


async def test_DL05_options_are_validated(http: httpx.AsyncClient, policies: str) -> None:
    await create(http, policies, "p")
    url = f"{policies}/p"
    bogus = await delete(http, url, propagationPolicy="Bogus")
    assert failure(bogus)[2] == (
        'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "Bogus":'
        ' supported values: "Foreground", "Background", "Orphan", "nil"'
    )
    both = await delete(http, url, {"propagationPolicy": "Orphan", "orphanDependents": True})
    assert "orphanDependents and deletionPropagation cannot be both set" in failure(both)[2]
    dry = await delete(http, url, {"dryRun": ["Some"]})
    assert failure(dry)[0] == 422


async def test_DL06_preconditions(http: httpx.AsyncClient, policies: str) -> None:
    made = await create(http, policies, "p")
    meta, url = made["metadata"], f"{policies}/p"
    uid = await delete(http, url, {"preconditions": {"uid": "nope"}})
    assert failure(uid) == (
        409,
        "Conflict",
        'Operation cannot be fulfilled on NetworkPolicy.net.alpha.kubernetes.io "p": the UID in the'
        f" precondition (nope) does not match the UID in record ({meta['uid']}). The object might"
        " have been deleted and then recreated",
    )
    assert uid.json()["details"]["kind"] == "NetworkPolicy"
    version = await delete(http, url, {"preconditions": {"resourceVersion": "1"}})
    assert "the ResourceVersion in the precondition (1) does not match" in failure(version)[2]
    good = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
    assert (await delete(http, url, {"preconditions": good})).status_code == 200


@pytest.mark.parametrize(
    ("policy", "finalizer"), [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")]
)
async def test_DL07_a_propagation_policy_is_a_finalizer(
    http: httpx.AsyncClient, policies: str, policy: str, finalizer: str
) -> None:
    await create(http, policies, "p")
    url = f"{policies}/p"
    answer = await delete(http, url, {"propagationPolicy": policy})
    assert answer.json()["metadata"]["finalizers"] == [finalizer]
    assert answer.json()["metadata"]["deletionTimestamp"]
    assert "warning" not in answer.headers
    assert (await release(http, url)).status_code == 200
    assert (await http.get(url)).status_code == 404


async def test_DL09_a_grace_period_is_of_no_effect(http: httpx.AsyncClient, policies: str) -> None:
    await create(http, policies, "p", finalizers=["x.io/y"])
    answer = await delete(http, f"{policies}/p", {"gracePeriodSeconds": -5})
    assert answer.json()["metadata"]["deletionGracePeriodSeconds"] == 0
    await release(http, f"{policies}/p")


async def test_DL11_a_collection_is_deleted_and_listed(
    http: httpx.AsyncClient, policies: str
) -> None:
    for name in ("a", "b", "c", "d"):
        await create(http, policies, name, labels={"odd": str(name in "ac").lower()})
    await create(http, policies, "held", labels={"odd": "true"}, finalizers=["x.io/y"])
    assert (await delete(http, policies, labelSelector="a in (")).status_code == 400
    tried = await delete(http, policies, labelSelector="odd=true", dryRun="All")
    assert len(tried.json()["items"]) == 3
    answer = await delete(http, policies, labelSelector="odd=true")
    body = answer.json()
    assert (answer.status_code, body["kind"]) == (200, "NetworkPolicyList")
    assert [item["metadata"]["name"] for item in body["items"]] == ["a", "c", "held"]
    left = (await http.get(policies)).json()["items"]
    assert [item["metadata"]["name"] for item in left] == ["b", "d", "held"]
    page = await delete(http, policies, limit="1")
    assert [item["metadata"]["name"] for item in page.json()["items"]] == ["b"]
    await delete(http, policies, fieldSelector="metadata.name=d")
    await release(http, f"{policies}/held")
    assert (await http.get(policies)).json()["items"] == []
    everywhere = policies.partition("/namespaces/")[0] + "/networkpolicys"
    assert (await delete(http, everywhere)).status_code == 405


async def test_DL11_of_a_past_list_only_what_is_still_selected_is_deleted(
    http: httpx.AsyncClient, policies: str
) -> None:
    for name in ("kept", "gone", "born-again", "touched"):
        last = await create(http, policies, name, labels={"owner": "tenant"})
    then = {
        "labelSelector": "owner=tenant",
        "resourceVersion": last["metadata"]["resourceVersion"],
        "resourceVersionMatch": "Exact",
    }
    merge = {"Content-Type": "application/merge-patch+json"}
    for name, label in (("kept", "owner"), ("touched", "other")):
        change = {"metadata": {"labels": {label: "admin"}}}
        await http.patch(f"{policies}/{name}", json=change, headers=merge)
    await http.delete(f"{policies}/born-again")
    await create(http, policies, "born-again", labels={"owner": "tenant"})
    assert len((await http.get(policies, params=then)).json()["items"]) == 4
    deleted = (await delete(http, policies, **then)).json()["items"]
    assert [item["metadata"]["name"] for item in deleted] == ["gone", "touched"]
    left = (await http.get(policies)).json()["items"]
    assert [item["metadata"]["name"] for item in left] == ["born-again", "kept"]


async def test_DL11_DL06_preconditions_hold_for_each_of_a_collection(
    http: httpx.AsyncClient, policies: str
) -> None:
    uid = (await create(http, policies, "a"))["metadata"]["uid"]
    await create(http, policies, "b")
    refused = await delete(http, policies, {"preconditions": {"uid": "nope"}})
    assert failure(refused)[:2] == (409, "Conflict")
    assert len((await http.get(policies)).json()["items"]) == 2
    mine = {"preconditions": {"uid": uid}}
    assert (await delete(http, policies, mine)).status_code == 409  # of the second
    left = (await http.get(policies)).json()["items"]
    assert [item["metadata"]["name"] for item in left] == ["b"]


async def test_DL12_a_namespace_takes_its_policies_along(http: httpx.AsyncClient) -> None:
    await Api(http).namespace("emptied")
    path = "/apis/net.alpha.kubernetes.io/v1alpha1/namespaces/emptied/networkpolicys"
    await create(http, path, "p")
    async with watching(http, "/api/v1/namespaces", fieldSelector="metadata.name=emptied") as event:
        await event()
        await delete(http, "/api/v1/namespaces/emptied")
        assert (await event())["object"]["status"]["phase"] == "Terminating"
        while (await event())["type"] != "DELETED":
            pass
    assert (await http.get(path)).json()["items"] == []


async def test_DL14_W07_the_event_of_a_deletion_has_its_own_revision(
    http: httpx.AsyncClient, policies: str
) -> None:
    made = await create(http, policies, "p")
    version = made["metadata"]["resourceVersion"]
    async with watching(http, policies, resourceVersion=version) as event:
        await delete(http, f"{policies}/p")
        gone = await event()
    assert gone["type"] == "DELETED"
    assert int(gone["object"]["metadata"].pop("resourceVersion")) > int(version)
    made["metadata"].pop("resourceVersion")
    assert gone["object"] == made
