"""What a user may do: rows AZ-01 to AZ-05, asked of the cluster."""

import asyncio
from typing import Any

import pytest

from tests.cluster.conftest import POLICIES, ROOT, World, policy

OTHER = f"{ROOT}/namespaces/default/networkpolicys"
APPLY = {"Content-Type": "application/apply-patch+yaml"}


async def test_AZ02_AZ04_an_editor_of_one_namespace(world: World, name: str) -> None:
    async with world.place.client(world.replica, token="editor-token") as http:
        assert (await http.post(POLICIES, json=policy(name))).status_code == 201
        assert (await http.get(f"{POLICIES}/{name}")).status_code == 200
        applied = {"apiVersion": "net.alpha.kubernetes.io/v1alpha1", "kind": "NetworkPolicy"}
        answer = await http.patch(
            f"{POLICIES}/{name}-2", params={"fieldManager": "me"}, headers=APPLY,
            json={**applied, **policy(f"{name}-2")},
        )  # fmt: skip
        assert answer.status_code == 201, answer.text
        refused = await http.get(f"{OTHER}/x")
        assert refused.status_code == 403
        assert refused.json() == {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": 'networkpolicys.net.alpha.kubernetes.io "x" is forbidden: User "editor"'
            ' cannot get resource "networkpolicys" in API group "net.alpha.kubernetes.io" in the'
            ' namespace "default": RBAC: there is no rule for it',
            "reason": "Forbidden",
            "details": {"name": "x", "group": "net.alpha.kubernetes.io", "kind": "networkpolicys"},
            "code": 403,
        }
        everywhere = await http.get(f"{ROOT}/networkpolicys")
        assert "at the cluster scope" in everywhere.json()["message"]
        watch = await http.get(OTHER, params={"watch": "1"})
        assert 'cannot watch resource "networkpolicys"' in watch.json()["message"]
        assert (await http.delete(POLICIES)).status_code == 200


async def test_every_spelling_of_a_path_needs_the_same_permission(world: World, name: str) -> None:
    async with world.place.client(world.replica, token="admin-token") as http:
        assert (await http.post(OTHER, json=policy(name))).status_code == 201
    async with world.place.client(world.replica, token="bob-token") as http:
        short = OTHER.removeprefix("/apis")
        for path in (
            f"{OTHER}/{name}",
            f"{OTHER}/{name}/",
            f"{short}/{name}",
            f"{short.replace('namespaces', 'namespace')}/{name}",
            f"/{OTHER}/{name}",
            f"{OTHER}//{name}",
            f"{OTHER}/../networkpolicys/{name}",
            f"{OTHER}%2f{name}",
            f"{OTHER}/%2e%2e/networkpolicys/{name}",
            f"/healthz/..{OTHER}/{name}",
            f"/healthz/%2e%2e{OTHER}/{name}",
            f"/healthz{OTHER}/{name}",
            f"{ROOT}/watch/namespaces/default/networkpolicys/{name}",
        ):
            answer = await http.get(path)
            # A path that is none of ours is one that bob may ask for, as all who are known.
            assert answer.status_code in (403, 404), (path, answer.status_code, answer.text)
            assert "podSelector" not in answer.text
    async with world.place.client(world.replica, token="admin-token") as http:
        await http.delete(f"{OTHER}/{name}")


LABELS = "owner in (b,a),!gone, here,tier!=x,n>1"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            {"labelSelector": LABELS, "fieldSelector": "spec.x!=1,metadata.name==azed"},
            {
                "name": "azed",
                "fieldSelector": {
                    "requirements": [
                        {"key": "metadata.name", "operator": "In", "values": ["azed"]},
                        {"key": "spec.x", "operator": "NotIn", "values": ["1"]},
                    ]
                },
                "labelSelector": {
                    "requirements": [
                        {"key": "gone", "operator": "DoesNotExist"},
                        {"key": "here", "operator": "Exists"},
                        {"key": "owner", "operator": "In", "values": ["a", "b"]},
                        {"key": "tier", "operator": "NotIn", "values": ["x"]},
                    ]
                },
            },
        ),
        ({"labelSelector": "=azed", "fieldSelector": "azed"}, {}),
        ({"fieldSelector": "=nothing"}, {}),
        ({"labelSelector": "n>1", "fieldSelector": "metadata.name=a/b"}, {
            "fieldSelector": {
                "requirements": [{"key": "metadata.name", "operator": "In", "values": ["a/b"]}]
            }
        }),
    ],
)  # fmt: skip
async def test_AZ02_what_a_selector_picks_is_told(
    world: World, name: str, query: dict[str, str], expected: dict[str, Any]
) -> None:
    path = f"{ROOT}/namespaces/{name}/networkpolicys"  # one that nobody has asked for yet
    async with world.place.client(world.replica, token="bob-token") as http:
        for verb, method, more in (
            ("list", "GET", {}),
            ("watch", "GET", {"watch": "1"}),
            ("deletecollection", "DELETE", {}),
        ):
            answer = await http.request(method, path, params={**query, **more})
            assert answer.status_code == 403
            asked = (await world.place.control("asked"))["asked"][-1]["resourceAttributes"]
            common = {"namespace": name, "group": "net.alpha.kubernetes.io"}
            common |= {"version": "v1alpha1", "resource": "networkpolicys", "verb": verb}
            wanted = {**common, **expected}
            if verb == "deletecollection":  # upstream takes no name for it
                wanted.pop("name", None)
            assert asked == wanted


async def test_AZ02_a_watch_by_its_path_is_one_of_all(world: World, name: str) -> None:
    path = f"{ROOT}/watch/namespaces/{name}/networkpolicys"
    query = {"fieldSelector": "metadata.name=x", "labelSelector": "a=b"}
    async with world.place.client(world.replica, token="bob-token") as http:
        assert (await http.get(path, params=query)).status_code == 403
    asked = (await world.place.control("asked"))["asked"][-1]["resourceAttributes"]
    assert asked["namespace"] == name
    assert not {"name", "fieldSelector", "labelSelector"} & asked.keys()


async def test_AZ02_a_permission_for_what_a_selector_picks_holds_for_no_more(
    world: World, name: str
) -> None:
    mine = {"labelSelector": "owner=tenant"}
    async with world.place.client(world.replica, token="admin-token") as http:
        for owner in ("tenant", "other"):
            body = policy(f"{name}-{owner}")
            body["metadata"]["labels"] = {"owner": owner}
            assert (await http.post(POLICIES, json=body)).status_code == 201
    async with world.place.client(world.replica, token="tenant-token") as http:
        for path in (POLICIES, f"{ROOT}/networkpolicys"):
            listed = await http.get(path, params=mine)
            assert [item["metadata"]["name"] for item in listed.json()["items"]] == [
                f"{name}-tenant"
            ]
            for other in ({}, {"labelSelector": "owner=other"}, {"labelSelector": "owner"}):
                assert (await http.get(path, params=other)).status_code == 403
        assert (await http.delete(POLICIES, params=mine)).status_code == 200
        assert (await http.delete(POLICIES)).status_code == 403
    async with world.place.client(world.replica, token="admin-token") as http:
        assert (await http.get(f"{POLICIES}/{name}-tenant")).status_code == 404
        assert (await http.delete(f"{POLICIES}/{name}-other")).status_code == 200


async def test_AZ03_answers_hold_for_a_while_and_are_asked_for_once(world: World) -> None:
    async with world.place.client(world.replica, token="bob-token") as http:
        path = f"{ROOT}/namespaces/default/networkpolicys/asked-once"
        before = (await world.place.control("state"))["reviews"]["subjectaccessreviews"]
        answers = await asyncio.gather(*(http.get(path) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {403}
        after = (await world.place.control("state"))["reviews"]["subjectaccessreviews"]
        assert after - before == 1


async def test_AZ05_an_apply_that_would_create_needs_both(world: World, name: str) -> None:
    body = {"apiVersion": "net.alpha.kubernetes.io/v1alpha1", "kind": "NetworkPolicy"}
    async with world.place.client(world.replica, token="patcher-token") as http:
        answer = await http.patch(
            f"{POLICIES}/{name}", params={"fieldManager": "me"}, headers=APPLY,
            json={**body, **policy(name)},
        )  # fmt: skip
        assert answer.status_code == 403, answer.text
        assert "cannot create" in answer.json()["message"]


async def test_AD01_namespaces_are_those_of_the_cluster(world: World, name: str) -> None:
    async with world.place.client(world.replica, token="admin-token") as http:
        missing = f"{ROOT}/namespaces/{name}/networkpolicys"
        answer = await http.post(missing, json=policy(name))
        assert answer.status_code == 404
        assert answer.json()["message"] == f'namespaces "{name}" not found'
        for odd in ("a%3Fb", "a%2e", "A"):
            answer = await http.post(f"{ROOT}/namespaces/{odd}/networkpolicys", json=policy(name))
            assert answer.status_code == 404, odd
    async with world.place.as_user("admin-token") as cluster:
        await cluster.post("/api/v1/namespaces", json={"metadata": {"name": name}})
    async with world.place.client(world.replica, token="admin-token") as http:
        assert (await http.post(missing, json=policy("first"))).status_code == 201
        await world.place.control("terminate", namespace=name)
        async with asyncio.timeout(10):
            while (answer := await http.post(missing, json=policy("next"))).status_code == 201:
                await http.delete(f"{missing}/next")
        assert answer.status_code == 403
        cause = answer.json()["details"]["causes"][0]
        assert cause["reason"] == "NamespaceTerminating"
        assert (await http.delete(f"{missing}/first")).status_code == 200
        assert (await http.get("/api/v1/namespaces")).status_code == 404
