"""Server-side apply over HTTP: who owns what, and how it ends."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.apiserver.test_resources import JSON_PATCH, MERGE, create, policy
from tests.lab.cluster import POLICIES, Api

APPLY = {"Content-Type": "application/apply-patch+yaml"}
HEAD = {"apiVersion": "net.alpha.kubernetes.io/v1alpha1", "kind": "NetworkPolicy"}


async def apply(
    http: httpx.AsyncClient, url: str, body: dict[str, Any], manager: str = "m1", **query: Any
) -> httpx.Response:
    name = url.rpartition("/")[2].replace("status", "p")
    meta = {"name": name, **body.get("metadata", {})}
    full = {**HEAD, "spec": {}, **body, "metadata": meta}
    params = {"fieldManager": manager, **query}
    return await http.patch(url, content=json.dumps(full), headers=APPLY, params=params)


def managers(obj: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (e["manager"], e["operation"], e.get("subresource", ""))
        for e in obj["metadata"].get("managedFields", ())
    ]


async def test_SSA01_the_first_apply_creates_and_the_next_changes(
    http: httpx.AsyncClient, policies: str
) -> None:
    url = f"{policies}/p"
    made = await apply(http, url, {"spec": {"podSelector": {"a": "b"}}})
    assert made.status_code == 201, made.text
    assert managers(made.json()) == [("m1", "Apply", "")]
    again = await apply(http, url, {"spec": {"podSelector": {"a": "c"}}})
    assert again.status_code == 200
    assert again.json()["spec"] == {"podSelector": {"a": "c"}}
    assert again.json()["metadata"]["generation"] == 2


async def test_SSA01_yaml_is_read_and_a_manager_is_needed(
    http: httpx.AsyncClient, policies: str
) -> None:
    body = "apiVersion: net.alpha.kubernetes.io/v1alpha1\nkind: NetworkPolicy\nspec: {}\n"
    url = f"{policies}/p"
    refused = await http.patch(url, content=body, headers=APPLY)
    assert refused.status_code == 422
    assert refused.json()["message"] == (
        'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: '
        "is required for apply patch"
    )
    made = await http.patch(url, content=body, headers=APPLY, params={"fieldManager": "m"})
    assert made.status_code == 201
    assert made.json()["metadata"]["name"] == "p"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"kind": "Foo", "apiVersion": "v1"}, "invalid object type: /v1, Kind=Foo"),
        ({}, "invalid object type: /, Kind="),
        ({**HEAD, "metadata": {"managedFields": [{"manager": "x"}]}}, "managedFields must be nil"),
        ({**HEAD, "metadata": {"name": "other"}}, "does not match the name on the URL (p)"),
        ({**HEAD, "spec": {"bogus": 1}}, ".spec.bogus: field not declared in schema"),
        ("a: [", "error decoding YAML: error converting YAML to JSON: yaml"),
    ],
)
async def test_SSA02_SSA11_what_cannot_be_applied_is_400(
    http: httpx.AsyncClient, policies: str, body: Any, text: str
) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    answer = await http.patch(
        f"{policies}/p", content=content, headers=APPLY, params={"fieldManager": "m"}
    )
    assert (answer.status_code, answer.json()["reason"]) == (400, "BadRequest")
    assert text in answer.json()["message"]


async def test_SSA02_doubled_keys_are_warned_about_or_refused(
    http: httpx.AsyncClient, policies: str
) -> None:
    body = json.dumps({**HEAD, "metadata": {"name": "p"}})[:-1] + ',"spec":{},"spec":{}}'
    params = {"fieldManager": "m", "fieldValidation": "Strict"}
    url = f"{policies}/p"
    strict = await http.patch(url, content=body, headers=APPLY, params=params)
    assert strict.status_code == 400
    assert "error strict decoding YAML" in strict.json()["message"]
    del params["fieldValidation"]
    warned = await http.patch(url, content=body, headers=APPLY, params=params)
    assert warned.status_code == 201
    assert "already set in map" in warned.headers["warning"]


async def test_SSA03_SSA04_a_conflict_names_the_field_and_force_takes_it(
    http: httpx.AsyncClient, policies: str
) -> None:
    url = f"{policies}/p"
    await apply(http, url, {"spec": {"podSelector": {"a": "b"}}})
    refused = await apply(http, url, {"spec": {"podSelector": {"a": "c"}}}, "m2")
    assert refused.status_code == 409
    body = refused.json()
    assert body["message"] == 'Apply failed with 1 conflict: conflict with "m1": .spec.podSelector'
    assert body["reason"] == "Conflict"
    assert set(body["details"]) == {"causes"}
    taken = await apply(http, url, {"spec": {"podSelector": {"a": "c"}}}, "m2", force="true")
    assert managers(taken.json()) == [("m2", "Apply", "")]
    await create(http, policies, "made")
    refused = await apply(http, f"{policies}/made", {"spec": {"podSelector": {"z": "z"}}}, "m")
    assert refused.json()["details"]["causes"][0]["message"].startswith(
        'conflict with "python-httpx" using net.alpha.kubernetes.io/v1alpha1'
    )


async def test_SSA10_U09_an_apply_without_a_change_writes_nothing(
    http: httpx.AsyncClient, policies: str
) -> None:
    url = f"{policies}/p"
    made = (await apply(http, url, {"spec": {"podSelector": {"a": "b"}}})).json()
    await asyncio.sleep(1.1)  # times have a resolution of seconds
    assert (await apply(http, url, {"spec": {"podSelector": {"a": "b"}}})).json() == made


async def test_SSA12_preconditions(http: httpx.AsyncClient, policies: str) -> None:
    url = f"{policies}/p"
    lost = await apply(http, url, {"metadata": {"uid": "u"}})
    assert lost.status_code == 409
    assert lost.json()["message"].endswith(
        "uid mismatch: the provided object specified uid u, and no existing object was found"
    )
    made = (await apply(http, url, {})).json()["metadata"]["resourceVersion"]
    stale = {"metadata": {"resourceVersion": made}, "spec": {"podSelector": {"a": "b"}}}
    assert (await apply(http, url, stale)).status_code == 200
    assert (await apply(http, url, stale)).status_code == 409


async def test_SSA14_the_status_has_its_own_entries(http: httpx.AsyncClient, policies: str) -> None:
    url = f"{policies}/p"
    await apply(http, url, {"spec": {"podSelector": {"a": "b"}}, "status": {"x": "dropped"}})
    condition = {"type": "Ready", "status": "True"}
    body = {"spec": {"podSelector": {"no": "no"}}, "status": {"conditions": [condition]}}
    new = (await apply(http, f"{url}/status", body, "agent")).json()
    assert new["spec"] == {"podSelector": {"a": "b"}}
    assert new["status"] == {"conditions": [condition]}
    assert new["metadata"]["generation"] == 1
    assert managers(new) == [("agent", "Apply", "status"), ("m1", "Apply", "")]
    missing = await apply(http, f"{policies}/none/status", {})
    assert missing.status_code == 400 or missing.status_code == 404


async def test_SSA17_C14_nothing_is_applied_into_a_missing_namespace(
    http: httpx.AsyncClient,
) -> None:
    answer = await apply(http, f"{POLICIES}/namespaces/nowhere/networkpolicys/p", {})
    assert answer.status_code == 404
    assert answer.json()["message"] == 'namespaces "nowhere" not found'


async def test_SSA17_nothing_is_applied_into_a_namespace_that_goes(
    http: httpx.AsyncClient,
) -> None:
    await Api(http).namespace("going")
    url = f"{POLICIES}/namespaces/going/networkpolicys"
    await create(http, url, "held", finalizers=["x.io/y"])
    assert (await http.delete("/api/v1/namespaces/going")).status_code == 200
    answer = await apply(http, f"{url}/new", {})
    assert answer.status_code == 403
    assert answer.json()["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    kept = await apply(http, f"{url}/held", {"spec": {"podSelector": {"a": "b"}}}, force="true")
    assert kept.status_code == 200
    await http.patch(f"{url}/held", json={"metadata": {"finalizers": None}}, headers=MERGE)


async def test_C20_SSA08_writes_of_all_kinds_leave_their_entries(
    http: httpx.AsyncClient, policies: str
) -> None:
    body = policy("p")
    body["metadata"]["managedFields"] = [{"manager": "liar", "operation": "Update"}]
    agent = {"User-Agent": "kubectl/v1.32.0 (linux/amd64)"}
    made = (await http.post(policies, json=body, headers=agent)).json()
    assert managers(made) == [("kubectl", "Update", "")]
    url = f"{policies}/p"
    patch = {"metadata": {"labels": {"a": "b"}}}
    query = {"fieldManager": "labeller"}
    new = (await http.patch(url, json=patch, headers=MERGE, params=query)).json()
    assert ("labeller", "Update", "") in managers(new)
    new["spec"]["podSelector"] = {"changed": "true"}
    put = (await http.put(url, json=new, params={"fieldManager": "putter"})).json()
    assert ("putter", "Update", "") in managers(put)
    status = {"status": {"conditions": [{"type": "A", "status": "B"}]}}
    done = await http.patch(f"{url}/status", json=status, headers=MERGE)
    assert ("python-httpx", "Update", "status") in managers(done.json())
    nothing = await http.post(policies, json={"kind": "NetworkPolicy", "metadata": {"name": "e"}})
    assert "managedFields" not in nothing.json()["metadata"]


async def test_SSA13_managed_fields_can_be_rewritten_as_kubectl_does(
    http: httpx.AsyncClient, policies: str
) -> None:
    made = await create(http, policies, "p")
    entry = made["metadata"]["managedFields"][0]
    moved = {**entry, "manager": "kubectl", "operation": "Apply"}
    operations = [
        {"op": "replace", "path": "/metadata/managedFields", "value": [moved]},
        {
            "op": "replace",
            "path": "/metadata/resourceVersion",
            "value": made["metadata"]["resourceVersion"],
        },
    ]
    new = await http.patch(f"{policies}/p", json=operations, headers=JSON_PATCH)
    assert new.status_code == 200, new.text
    assert managers(new.json()) == [("kubectl", "Apply", "")]
    cleared = await http.patch(
        f"{policies}/p", json={"metadata": {"managedFields": [{}]}}, headers=MERGE
    )
    assert "managedFields" not in cleared.json()["metadata"]


async def test_two_appliers_at_once_both_win(http: httpx.AsyncClient, policies: str) -> None:
    url = f"{policies}/p"
    answers = await asyncio.gather(
        *(apply(http, url, {"metadata": {"labels": {f"l{n}": "x"}}}, f"m{n}") for n in range(20))
    )
    assert sorted(a.status_code for a in answers) == [200] * 19 + [201]
    final = (await http.get(url)).json()["metadata"]
    assert len(final["labels"]) == len(final["managedFields"]) == 20


async def test_C16_an_apply_on_trial_stores_nothing(http: httpx.AsyncClient, policies: str) -> None:
    tried = await apply(http, f"{policies}/p", {}, dryRun="All")
    assert tried.status_code == 201
    assert (await http.get(f"{policies}/p")).status_code == 404
