"""ValidatingAdmissionPolicies of the cluster: row AD-02."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import POLICIES, World, policy, started
from tests.cluster.hooks import RULE, configured, webhook
from tests.storage.etcd_cluster import EtcdServer

KINDS = ("validatingadmissionpolicies", "validatingadmissionpolicybindings")
DENIED = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: "
CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap"}
WEB = "object.spec.podSelector.app != 'web'"


@contextlib.asynccontextmanager
async def bound(
    world: World, *validations: dict[str, Any], binding: dict[str, Any] | None = None, **spec: Any
) -> AsyncIterator[None]:
    """A policy for what is created and updated, and what puts it into force."""
    rule = {**RULE, "operations": ["CREATE", "UPDATE"]}
    made = {
        "spec": {
            "matchConstraints": {"resourceRules": [rule]}, "validations": list(validations), **spec,
        }
    }  # fmt: skip
    put = {"spec": {"policyName": "p", "validationActions": ["Deny"], **(binding or {})}}
    policies, bindings = KINDS
    async with configured(world, **{policies: ("p", made), bindings: ("b", put)}):
        yield


async def test_AD02_a_policy_denies(world: World, admin: httpx.AsyncClient, name: str) -> None:
    async with bound(world, {"expression": "true"}, {"expression": WEB, "message": " no web "}):
        refused = await admin.post(POLICIES, json=policy(name))
        message = f'networkpolicys.net.alpha.kubernetes.io "{name}" is forbidden: {DENIED}no web'
        assert refused.status_code == 422, refused.text
        assert refused.json() == {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": "Invalid", "code": 422,
            "details": {
                "name": name, "group": "net.alpha.kubernetes.io", "kind": "networkpolicys",
                "causes": [{"message": f"{DENIED}no web"}],
            },
        }  # fmt: skip
        other = policy(name)
        other["spec"]["podSelector"] = {"app": "db"}
        assert (await admin.post(POLICIES, json=other)).status_code == 201
        merge = {"Content-Type": "application/merge-patch+json"}
        changed = await admin.patch(f"{POLICIES}/{name}", json=policy(name), headers=merge)
        assert changed.status_code == 422
        assert (await admin.delete(f"{POLICIES}/{name}")).status_code == 200  # no rule for it


async def test_AD02_a_rule_for_what_is_below_a_resource_is_for_the_resource_too(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    below = {**RULE, "resources": ["networkpolicys/*"]}
    async with bound(world, {"expression": "false"}, matchConstraints={"resourceRules": [below]}):
        assert (await admin.post(POLICIES, json=policy(name))).status_code == 422
    async with webhook(world, "deny", rules=[below]):
        assert (await admin.post(POLICIES, json=policy(name))).status_code == 409
    # What names one of them is for that alone.
    status = {**RULE, "resources": ["networkpolicys/status", "*/status"]}
    async with webhook(world, "deny", rules=[status]):
        assert (await admin.post(POLICIES, json=policy(name))).status_code == 201


@pytest.mark.parametrize(
    ("validation", "code", "message"),
    [
        ({"expression": f" {WEB} "}, 422, f"failed expression: {WEB}"),
        ({"expression": WEB, "reason": "Forbidden"}, 403, f"failed expression: {WEB}"),
        (
            {"expression": WEB, "messageExpression": "'no ' + variables.app", "message": "m"},
            422,
            "no web",
        ),
        ({"expression": WEB, "messageExpression": "'a\\nb'", "message": "m"}, 422, "m"),
        ({"expression": WEB, "messageExpression": "object.none", "message": "m"}, 422, "m"),
        ({"expression": "variables.app == 'db'"}, 422, "failed expression: variables.app == 'db'"),
        (
            {"expression": "namespaceObject.metadata.name != 'team-a'"},
            422,
            "failed expression: namespaceObject.metadata.name != 'team-a'",
        ),
        ({"expression": "variables.late"}, 422, 'composited variable "late" fails to evaluate: '),
        ({"expression": "object.none"}, 422, "expression 'object.none' resulted in error: no such"),
        ({"expression": "1 +"}, 422, "compilation error: "),
        ({"expression": "1"}, 422, "expression '1' resulted in error: must evaluate to bool"),
        ({"expression": "params == null"}, 201, ""),
    ],
)
async def test_what_a_validation_says(
    world: World, admin: httpx.AsyncClient, name: str, validation: dict[str, Any], code: int,
    message: str,
) -> None:  # fmt: skip
    variables = [
        {"name": "labels", "expression": "object.spec.podSelector"},
        {"name": "app", "expression": "variables.labels.app"},
        {"name": "late", "expression": "object.none"},
    ]
    async with bound(world, validation, variables=variables):
        answer = await admin.post(POLICIES, json=policy(name))
    assert answer.status_code == code, answer.text
    if code != 201:
        assert DENIED + message in answer.json()["message"]


@pytest.mark.parametrize("policy_of", ["Fail", "Ignore"])
async def test_AD02_an_error_is_for_the_failure_policy(
    world: World, admin: httpx.AsyncClient, name: str, policy_of: str
) -> None:
    failing = {"failurePolicy": policy_of}
    secret, none = {"paramRef": {"name": "x"}}, "failed to configure binding: no params found"
    may_not = "failed to configure binding: v1, Kind=Secret: 403: "
    broken = {"objectSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}
    cases: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
        ("object.none", {}, {}, "no such key: none"),
        ("true", {"matchConditions": [{"name": "c", "expression": "object.none"}]}, {}, "none"),
        ("true", {"paramKind": CONFIG_MAP}, secret, none),
        ("true", {"paramKind": {**CONFIG_MAP, "kind": "Secret"}}, secret, may_not),
        ("true", {"paramKind": {**CONFIG_MAP, "kind": "Zebra"}}, secret, "Kind=Zebra` not known"),
        ("true", {}, {"matchResources": broken}, "failed to configure binding: "),
        ("true", {"matchConstraints": broken}, {}, "failed to configure policy: "),
        (
            "true",
            {"auditAnnotations": [{"key": "k", "valueExpression": "object.no"}]},
            {},
            "no",
        ),
    ]
    for number, (validation, spec, binding, why) in enumerate(cases):
        async with bound(world, {"expression": validation}, binding=binding, **failing, **spec):
            answer = await admin.post(POLICIES, json=policy(f"{name}-{number}"))
            if policy_of == "Ignore":
                assert answer.status_code == 201, answer.text
            else:
                assert answer.status_code == 422, answer.text
                assert why in answer.json()["message"]


async def test_conditions_and_selectors_narrow_a_policy(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    no, other = {"expression": "false"}, {"matchLabels": {"no": "such"}}
    here = {**RULE, "resourceNames": [f"{name}-named"]}
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"matchConditions": [{"name": "c", "expression": "object.metadata.name == 'x'"}]}, {}),
        ({}, {"matchResources": {"objectSelector": other}}),
        ({}, {"matchResources": {"namespaceSelector": other}}),
        ({}, {"matchResources": {"resourceRules": [here]}}),
        ({}, {"matchResources": {"excludeResourceRules": [RULE]}}),
        ({}, {"policyName": "another"}),
    ]
    for number, (spec, binding) in enumerate(cases):
        async with bound(world, no, binding=binding, **spec):
            made = await admin.post(POLICIES, json=policy(f"{name}-{number}"))
            assert made.status_code == 201, made.text
    async with bound(world, no, binding={"matchResources": {"resourceRules": [here]}}):
        assert (await admin.post(POLICIES, json=policy(f"{name}-named"))).status_code == 422


async def test_a_policy_reads_its_parameters(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    allowed = {
        "expression": "object.spec.podSelector.app in params.data.apps.split(',')",
        "messageExpression": "'not of ' + params.data.apps",
    }

    async def put(place: str, which: str, apps: str) -> None:
        meta = {"namespace": place, "name": which, "labels": {"for": "policies"}}
        await world.place.control("parameters", {"metadata": meta, "data": {"apps": apps}})

    async def with_params(**reference: Any) -> httpx.Response:
        binding = {"paramRef": reference}
        async with bound(world, allowed, binding=binding, paramKind=CONFIG_MAP):
            return await admin.post(POLICIES, json=policy(name), params={"dryRun": "All"})

    named = {"name": "apps", "parameterNotFoundAction": "Deny"}
    missing = await with_params(**named)
    assert "no params found for policy binding with `Deny`" in missing.json()["message"]
    assert (await with_params(**{**named, "parameterNotFoundAction": "Allow"})).status_code == 201
    await put("team-a", "apps", "db,web")
    assert (await with_params(**named)).status_code == 201
    await put("team-a", "apps", "db")
    assert (await with_params(**named)).json()["message"].endswith(f"{DENIED}not of db")
    await put("central", "apps", "web")
    assert (await with_params(**named, namespace="central")).status_code == 201
    # Each that is selected has to agree.
    chosen = {"selector": {"matchLabels": {"for": "policies"}}, "parameterNotFoundAction": "Deny"}
    assert (await with_params(**chosen)).json()["message"].endswith(f"{DENIED}not of db")
    assert (await with_params(**chosen, namespace="central")).status_code == 201
    # What a binding without a reference sees is null.
    async with bound(world, {"expression": "params == null"}, paramKind=CONFIG_MAP):
        assert (await admin.post(POLICIES, json=policy(name))).status_code == 201


async def test_parameters_of_a_kind_that_is_no_longer_served(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    missing = world.place.folder / "without-configmaps"
    binding = {"paramRef": {"name": "none-such", "parameterNotFoundAction": "Allow"}}
    dry = {"dryRun": "All"}
    async with bound(world, {"expression": "false"}, binding=binding, paramKind=CONFIG_MAP):
        assert (await admin.post(POLICIES, json=policy(name), params=dry)).status_code == 201
        missing.touch()
        try:
            refused = await admin.post(POLICIES, json=policy(name), params=dry)
        finally:
            missing.unlink()
        assert refused.status_code == 422, refused.text
        assert "paramKind kind `v1, Kind=ConfigMap` not known" in refused.json()["message"]
        assert (await admin.post(POLICIES, json=policy(name), params=dry)).status_code == 201


async def test_AD03_warnings_are_told_where_another_refuses(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    warn = {"validationActions": ["Warn"]}
    async with (
        webhook(world, "label", mutating=True),
        webhook(world, "deny"),
        bound(world, {"expression": WEB, "message": "no web"}, binding=warn),
    ):
        refused = await admin.post(POLICIES, json=policy(name))
        assert refused.status_code == 409, refused.text
        said = "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': no web"
        assert refused.headers.get_list("warning") == ['299 - "labelled"', f'299 - "{said}"']


async def test_errors_of_policies_are_events_without_the_words_of_requests(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    secret = "object.metadata.labels[object.metadata.annotations.secret] == 'x'"
    async with bound(world, {"expression": secret}):
        for number in range(60):
            made = policy(f"{name}-{number}")
            made["metadata"] |= {"annotations": {"secret": f"words-{number}"}, "labels": {"a": "b"}}
            refused = await admin.post(POLICIES, json=made, params={"dryRun": "All"})
            assert f"no such key: words-{number}" in refused.json()["message"]
    bundle = {"url": "https://127.0.0.1:1/", "caBundle": "bm9uZQ=="}
    async with webhook(world, "deny", clientConfig=bundle):
        async with asyncio.timeout(10):
            while not [e for e in await events(world) if e["reason"] == "BadWebhook"]:
                await asyncio.sleep(0.1)
    failed = [e for e in await events(world) if e["reason"] == "FailedAdmissionPolicy"]
    told = {e["message"] for e in failed if "words" in e["message"]}
    assert told == set()
    assert {e["message"] for e in failed} == {"failed evaluating a policy; policy: p"}


async def events(world: World) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await world.place.control("events"))["events"]
    return found


async def test_a_policy_may_only_warn_and_note(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    warn = {"validationActions": ["Warn", "Audit"]}
    async with bound(world, {"expression": WEB, "message": "no web"}, binding=warn):
        made = await admin.post(POLICIES, json=policy(name))
        assert made.status_code == 201, made.text
        assert made.headers["warning"] == (
            "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': no web\""
        )


async def test_many_policies_are_judged_in_a_moment(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    harmless = {"expression": "object.metadata.annotations.size() == variables.many"}
    many = {"name": "many", "expression": "object.metadata.annotations.size()"}
    made = policy(name)
    made["metadata"]["annotations"] = {f"a.example/{n}": "x" * 200 for n in range(1000)}
    made["spec"]["ingress"] = [
        {"from": [{"namespaces": {"number": f"{n}-{m}"}} for m in range(10)]} for n in range(4000)
    ]
    policies, bindings = KINDS
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        for number in range(60):
            spec = {
                "matchConstraints": {"resourceRules": [RULE]}, "variables": [many],
                "validations": [harmless, {"expression": f"object != {number}"}],
            }  # fmt: skip
            put = {"policyName": f"p{number}", "validationActions": ["Deny"]}
            found = {
                policies: (f"p{number}", {"spec": spec}), bindings: (f"b{number}", {"spec": put}),
            }  # fmt: skip
            for kind, (which, obj) in found.items():
                await world.place.control("admission", obj, kind=kind, name=which)
                stack.push_async_callback(world.place.control, "admission", kind=kind, name=which)
        await asyncio.sleep(0.5)
        times = []
        for _ in range(3):
            begun = loop.time()
            answer = await admin.post(POLICIES, json=made, params={"dryRun": "All"})
            times.append(loop.time() - begun)
            assert answer.status_code == 201, answer.text
    assert min(times) < 3
    await asyncio.sleep(0.3)


async def test_an_evaluating_process_that_was_killed_is_replaced(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    pid = world.replica.pid
    async with bound(world, {"expression": "true"}):
        for number in range(10):
            ours: list[int] = []
            while not ours:  # what is being killed may still have answered
                answer = await admin.post(POLICIES, json=policy(name), params={"dryRun": "All"})
                assert answer.status_code == 201, answer.text
                ours = evaluating(pid)
            for victim in ours if number % 2 else evaluating(ours[0]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)


def evaluating(parent: int) -> list[int]:
    """Its children of that kind."""
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    children = [pid for task in tasks for pid in task.read_text().split()]
    found = []
    for pid in children:
        with contextlib.suppress(FileNotFoundError):  # it has ended
            if b"cel.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found


async def test_policies_come_between_the_webhooks(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    labelled = {"expression": "object.metadata.labels.from != 'webhook'", "message": "seen"}
    async with (
        webhook(world, "label", mutating=True),
        webhook(world, "deny"),
        bound(world, labelled),
    ):
        refused = await admin.post(POLICIES, json=policy(name))
        assert refused.status_code == 422, refused.text
        assert refused.json()["message"].endswith(f"{DENIED}seen")


async def test_a_cluster_without_policies(tmp_path: Path, own_etcd: EtcdServer, name: str) -> None:
    missing = [tmp_path / f"without-{kind}" for kind in KINDS]
    for file in missing:
        file.touch()
    async for world in started(tmp_path, own_etcd):  # both servers become ready
        async with world.place.client(world.replica, token="admin-token") as http:
            async with bound(world, {"expression": "false"}):
                assert (await http.post(POLICIES, json=policy(name))).status_code == 201
                for file in missing:
                    file.unlink()  # the cluster is upgraded
                async with asyncio.timeout(30):
                    number = 0
                    while True:
                        number += 1
                        made = await http.post(POLICIES, json=policy(f"{name}-{number}"))
                        if made.status_code == 422:
                            break
                        await asyncio.sleep(0.2)
            await http.delete(POLICIES)
