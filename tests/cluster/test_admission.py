"""Webhooks and quotas of the cluster, for our resource: rows AD-02 to AD-04."""

import asyncio
import base64
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import POLICIES, ROOT, World, policy
from tests.cluster.hooks import webhook


async def test_AD02_a_webhook_changes_what_is_stored(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    async with webhook(world, "label", mutating=True):
        made = await admin.post(POLICIES, json=policy(name))
        assert made.status_code == 201, made.text
        assert made.headers["warning"] == '299 - "labelled"'
        assert made.json()["metadata"]["labels"] == {"from": "webhook"}
        asked = (await world.place.control("reviewed"))["reviewed"][-1]
        assert asked["operation"] == "CREATE"
        assert asked["name"] == name
        assert asked["namespace"] == "team-a"
        assert asked["resource"]["resource"] == "networkpolicys"
        assert asked["userInfo"]["username"] == "admin"
        assert "system:masters" in asked["userInfo"]["groups"]
        assert asked["oldObject"] is None
        assert asked["dryRun"] is False
        assert asked["object"]["spec"] == {"podSelector": {"app": "web"}}
    stored = (await admin.get(f"{POLICIES}/{name}")).json()
    assert stored["metadata"]["labels"] == {"from": "webhook"}


async def test_AD03_a_webhook_denies(world: World, admin: httpx.AsyncClient, name: str) -> None:
    assert (await admin.post(POLICIES, json=policy(name))).status_code == 201
    async with webhook(world, "deny"):
        text = 'admission webhook "deny.example.com" denied the request: not on my watch'
        patch = {"metadata": {"labels": {"a": "b"}}}
        merge = {"Content-Type": "application/merge-patch+json"}
        for answer in (
            await admin.post(POLICIES, json=policy(f"{name}-2")),
            await admin.patch(f"{POLICIES}/{name}", json=patch, headers=merge),
            await admin.delete(f"{POLICIES}/{name}"),
            await admin.delete(POLICIES),
        ):
            assert answer.status_code == 409, answer.text
            assert answer.json()["message"] == text
        asked = (await world.place.control("reviewed"))["reviewed"][-1]
        assert asked["operation"] == "DELETE"
        assert asked["object"] is None
        assert asked["oldObject"]["metadata"]["name"] == name
    assert (await admin.get(f"{POLICIES}/{name}")).status_code == 200


async def test_what_a_webhook_makes_of_it_is_validated(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    async with webhook(world, "spoil", mutating=True):
        refused = await admin.post(POLICIES, json=policy(name))
        assert refused.status_code == 422, refused.text
        assert "spec.bogus" in refused.json()["message"]


async def test_what_is_the_servers_is_not_a_webhooks(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    async with webhook(world, "forge", mutating=True):
        made = await admin.post(POLICIES, json=policy(name))
        assert made.status_code == 201, made.text
        assert "status" not in made.json()
        assert "deletionTimestamp" not in made.json()["metadata"]


MERGE = {"Content-Type": "application/merge-patch+json"}
APPLY = {"Content-Type": "application/apply-patch+yaml"}


async def test_SSA16_what_a_webhook_changes_is_nobodys(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    mine = {"fieldManager": "me"}
    async with webhook(world, "label", mutating=True):
        made = await admin.post(POLICIES, json=policy(name), params=mine)
        (entry,) = made.json()["metadata"]["managedFields"]
        assert "f:metadata" not in entry["fieldsV1"]
        change = {"metadata": {"annotations": {"a": "b"}}}
        changed = await admin.patch(f"{POLICIES}/{name}", json=change, params=mine, headers=MERGE)
        (entry,) = changed.json()["metadata"]["managedFields"]
        assert entry["fieldsV1"]["f:metadata"] == {"f:annotations": {".": {}, "f:a": {}}}
        assert changed.json()["metadata"]["labels"] == {"from": "webhook"}
    # So whoever applies it meets no conflict.
    meta = {"name": name, "labels": {"from": "elsewhere"}}
    body = {
        "apiVersion": "net.alpha.kubernetes.io/v1alpha1", "kind": "NetworkPolicy", "metadata": meta,
    }  # fmt: skip
    other = {"fieldManager": "other"}
    applied = await admin.patch(f"{POLICIES}/{name}", json=body, params=other, headers=APPLY)
    assert applied.status_code == 200, applied.text


async def test_SSA16_a_record_that_a_webhook_spoils_is_put_back(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    applied = {
        "apiVersion": "net.alpha.kubernetes.io/v1alpha1", "kind": "NetworkPolicy",
        **policy(f"{name}-2"),
    }  # fmt: skip
    async with webhook(world, "misrecord", mutating=True):
        for answer in (
            await admin.post(POLICIES, json=policy(name), params={"fieldManager": "me"}),
            await admin.patch(
                f"{POLICIES}/{name}", json={"metadata": {"labels": {"a": "b"}}},
                params={"fieldManager": "me"}, headers=MERGE,
            ),
            await admin.patch(
                f"{POLICIES}/{name}-2", json=applied,
                params={"fieldManager": "me"}, headers=APPLY,
            ),
        ):  # fmt: skip
            assert answer.status_code in (200, 201), answer.text
            assert (
                "managedFields was in an invalid state after admission"
                in (answer.headers["warning"])
            )
            assert {e["manager"] for e in answer.json()["metadata"]["managedFields"]} == {"me"}
    async with webhook(world, "record", mutating=True):
        change = {"metadata": {"labels": {"a": "c"}}}
        answer = await admin.patch(f"{POLICIES}/{name}", json=change, headers=MERGE)
        assert "warning" not in answer.headers
        (entry,) = answer.json()["metadata"]["managedFields"]
        assert entry["manager"] == "hook"
        made = await admin.post(POLICIES, json=policy(f"{name}-3"))
        (entry,) = made.json()["metadata"]["managedFields"]
        assert entry["manager"] == "hook"


async def test_one_webhook_sees_what_another_made(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    made_by_it = {"matchLabels": {"from": "webhook"}}
    async with (
        webhook(world, "label", mutating=True),
        webhook(world, "zdeny", "deny", mutating=True, objectSelector=made_by_it),
    ):
        assert (await admin.post(POLICIES, json=policy(name))).status_code == 409


async def test_a_namespace_that_is_a_moment_old_is_watched_too(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    async with webhook(world, "deny", namespaceSelector={"matchLabels": {"enforce": "yes"}}):
        for number in range(5):
            await world.place.control("end-watches")
            made = {"metadata": {"name": f"{name}-{number}", "labels": {"enforce": "yes"}}}
            async with world.place.as_user("admin-token") as cluster:
                await cluster.post("/api/v1/namespaces", json=made)
            path = f"{ROOT}/namespaces/{name}-{number}/networkpolicys"
            assert (await admin.post(path, json=policy("a"))).status_code == 409


@pytest.mark.parametrize(("fails", "code"), [("Fail", 500), ("Ignore", 201)])
async def test_one_that_cannot_be_understood(
    world: World, admin: httpx.AsyncClient, name: str, fails: str, code: int
) -> None:
    bundle = base64.b64encode(b"no certificate").decode()
    nowhere = {"name": "webhook", "namespace": "default", "path": "/check"}  # no DNS knows it
    for number, client in enumerate(
        ({"url": "https://127.0.0.1:1/", "caBundle": bundle}, {"service": nowhere})
    ):
        async with webhook(world, "deny", clientConfig=client, failurePolicy=fails):
            answer = await admin.post(POLICIES, json=policy(f"{name}-{number}"))
            assert answer.status_code == code, answer.text


@pytest.mark.parametrize("what", ["broken", "slow", "drip"])
async def test_one_that_cannot_be_asked(
    world: World, admin: httpx.AsyncClient, name: str, what: str
) -> None:
    async with webhook(world, what, timeoutSeconds=1):
        refused = await admin.post(POLICIES, json=policy(name))
        assert refused.status_code == 500
        assert f'failed calling webhook "{what}.example.com"' in refused.json()["message"]
    async with asyncio.timeout(10):
        while not (seen := await _events(world, f"webhook: {what}.example.com")):
            await asyncio.sleep(0.1)
    assert seen[0]["reason"] == "FailedCallingWebhook"
    assert seen[0]["involvedObject"]["name"] == "v1alpha1.net.alpha.kubernetes.io"
    async with webhook(world, what, timeoutSeconds=1, failurePolicy="Ignore"):
        assert (await admin.post(POLICIES, json=policy(name))).status_code == 201


async def _events(world: World, text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await world.place.control("events"))["events"]
    return [event for event in found if text in event["message"]]


async def test_a_dry_run_is_not_for_every_webhook(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    dry = {"dryRun": "All"}
    async with webhook(world, "label", mutating=True, sideEffects="Some"):
        refused = await admin.post(POLICIES, json=policy(name), params=dry)
        assert refused.status_code == 400
        assert "does not support dry run" in refused.json()["message"]
    async with webhook(world, "label", mutating=True):
        tried = await admin.post(POLICIES, json=policy(name), params=dry)
        assert tried.status_code == 201
        assert (await world.place.control("reviewed"))["reviewed"][-1]["dryRun"] is True


async def test_selectors_narrow_what_a_webhook_sees(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    other = {"matchLabels": {"watched": "yes"}}
    async with webhook(world, "deny", objectSelector=other):
        assert (await admin.post(POLICIES, json=policy(name))).status_code == 201
        marked = policy(f"{name}-2")
        marked["metadata"]["labels"] = {"watched": "yes"}
        assert (await admin.post(POLICIES, json=marked)).status_code == 409
    async with webhook(world, "deny", namespaceSelector=other):
        assert (await admin.post(POLICIES, json=policy(f"{name}-3"))).status_code == 201


async def test_AD02_a_namespace_that_is_gone_is_no_namespace_without_labels(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    place = f"/api/v1/namespaces/{name}"
    here = f"{ROOT}/namespaces/{name}/networkpolicys"
    chosen: dict[str, Any] = {"namespaceSelector": {"matchLabels": {"watched": "yes"}}}
    change = {"metadata": {"labels": {"a": "b"}}}
    async with world.place.as_user("admin-token") as cluster:
        meta = {"name": name, "labels": {"watched": "yes"}}
        await cluster.post("/api/v1/namespaces", json={"metadata": meta})
        for each in ("one", "two"):
            assert (await admin.post(here, json=policy(each))).status_code == 201
        # One that is going is there until all in it is gone.
        await world.place.control("terminate", namespace=name)
        async with webhook(world, "deny", **chosen):
            assert (await admin.delete(f"{here}/two")).status_code == 200  # its labels went
        await cluster.delete(place)
    async with webhook(world, "deny", **chosen):
        for answer in (
            await admin.patch(f"{here}/one", json=change, headers=MERGE),
            await admin.delete(f"{here}/one"),
        ):
            assert answer.status_code == 404, answer.text
            assert answer.json()["message"] == f'namespaces "{name}" not found'
    async with webhook(world, "deny"):  # it needs to know nothing of the namespace
        assert (await admin.delete(f"{here}/one")).status_code == 409
    other: dict[str, Any] = {**chosen, "objectSelector": {"matchLabels": {"no": "such"}}}
    async with webhook(world, "deny", **other):  # it is not concerned
        assert (await admin.delete(f"{here}/one")).status_code == 200


async def test_AD04_a_quota_counts_policies(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    key = "count/networkpolicys.net.alpha.kubernetes.io"
    quota = {"metadata": {"namespace": "team-a"}, "spec": {"hard": {key: "2"}}}
    await world.place.control("admission", quota, kind="resourcequotas", name="few")
    await asyncio.sleep(0.3)
    try:
        for number in range(2):
            made = await admin.post(POLICIES, json=policy(f"{name}-{number}"))
            assert made.status_code == 201, made.text
        refused = await admin.post(POLICIES, json=policy(f"{name}-2"))
        assert refused.status_code == 403
        assert refused.json()["message"] == (
            f'networkpolicys.net.alpha.kubernetes.io "{name}-2" is forbidden: exceeded quota: few,'
            f" requested: {key}=1, used: {key}=2, limited: {key}=2"
        )
    finally:
        await world.place.control("admission", kind="resourcequotas", name="few")
