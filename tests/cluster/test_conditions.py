"""`matchConditions` of webhooks, in CEL: row AD-02."""

import asyncio
from typing import Any

import httpx
import pytest

from apiserver.admission.cel.job import exceeded
from tests.cluster.conftest import POLICIES, World, policy
from tests.cluster.hooks import webhook

OTHER_LABELS = "object.metadata.labels['no'] == 'label'"  # an error: there are none
BIG = "object.metadata.annotations.big"
SLOW = f"{BIG}.substring(0, 9000).split('').all(x, {BIG}.find('[^a]') == '')"
MAY = "authorizer.group('').resource('pods').namespace('team-a').check('get').allowed()"
MAY_HERE = "authorizer.requestResource.check('create').allowed()"


def conditions(*expressions: str) -> list[dict[str, Any]]:
    return [{"name": f"c{n}", "expression": text} for n, text in enumerate(expressions)]


@pytest.mark.parametrize(
    ("expressions", "called"),
    [
        (["true", f"object.metadata.name.startsWith('{'policy'}')"], True),
        (["request.operation in ['CREATE', 'UPDATE']", "oldObject == null"], True),
        (["request.userInfo.username == 'admin'", "request.namespace == 'team-a'"], True),
        (["object.metadata.?labels.optMap(l, 'a' in l).orValue(true)"], True),
        (["object.spec.podSelector.app.lowerAscii().split('e') == ['w', 'b']"], True),
        (["sets.contains(request.userInfo.groups, ['system:masters'])"], True),
        ([MAY, MAY_HERE, "authorizer.path('/healthz').check('get').allowed()"], True),
        (["authorizer.serviceAccount('a', 'b').path('/secret').check('get').allowed()"], False),
        (["true", "object.spec.podSelector.app == 'db'"], False),
        (["has(request.subResource)"], False),
        ([OTHER_LABELS, "false"], False),  # what is false decides
        (["1 +", "false"], False),
    ],
)
async def test_AD02_conditions_decide_whether_a_webhook_is_called(
    world: World, admin: httpx.AsyncClient, name: str, expressions: list[str], called: bool
) -> None:
    async with webhook(world, "deny", matchConditions=conditions(*expressions)):
        answer = await admin.post(POLICIES, json=policy(name))
        assert answer.status_code == (409 if called else 201), answer.text


async def test_a_condition_sees_what_is_deleted(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    for each in (name, f"{name}-kept"):
        assert (await admin.post(POLICIES, json=policy(each))).status_code == 201
    gone = "request.operation == 'DELETE' && object == null"
    kept = "oldObject.metadata.name.endsWith('-kept')"
    async with webhook(world, "deny", matchConditions=conditions(gone, kept)):
        assert (await admin.delete(f"{POLICIES}/{name}")).status_code == 200
        assert (await admin.delete(f"{POLICIES}/{name}-kept")).status_code == 409


async def test_a_webhook_that_changes_is_asked_once_its_condition_holds(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    labelled = conditions("has(object.metadata.labels) && object.metadata.labels.from == 'webhook'")
    async with (
        webhook(world, "label", mutating=True, matchConditions=conditions("!has(oldObject.spec)")),
        webhook(world, "zdeny", "deny", mutating=True, matchConditions=labelled),
    ):
        # An error of the first refuses the request, and nothing else is asked.
        refused = await admin.post(POLICIES, json=policy(name))
        assert refused.status_code == 403, refused.text
    async with (
        webhook(world, "label", mutating=True, matchConditions=conditions("oldObject == null")),
        webhook(world, "zdeny", "deny", mutating=True, matchConditions=labelled),
    ):
        assert (await admin.post(POLICIES, json=policy(name))).status_code == 409


@pytest.mark.parametrize("expression", [OTHER_LABELS, "1 +", "nothing.of.it", "'text'", SLOW])
async def test_AD02_an_error_of_a_condition_is_for_the_failure_policy(
    world: World, admin: httpx.AsyncClient, name: str, expression: str
) -> None:
    made = policy(name)
    made["metadata"]["annotations"] = {"big": "a" * 200_000}
    failing = conditions("true", expression)
    async with webhook(world, "deny", matchConditions=failing):
        refused = await admin.post(POLICIES, json=made)
        assert refused.status_code == 403, refused.text
        start = f'networkpolicys.net.alpha.kubernetes.io "{name}" is forbidden: '
        why = refused.json()["message"].removeprefix(start)
        if expression == OTHER_LABELS:
            assert why == f"expression '{OTHER_LABELS}' resulted in error: no such key: labels"
        elif expression == SLOW:
            assert why == exceeded(SLOW)
        else:
            assert "compilation error" in why or "must evaluate to bool" in why
    async with webhook(world, "deny", matchConditions=failing, failurePolicy="Ignore"):
        assert (await admin.post(POLICIES, json=made)).status_code == 201


async def test_a_costly_condition_holds_up_nobody_else(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    made = policy(name)
    made["metadata"]["annotations"] = {"big": "a" * 200_000}
    costly = conditions("has(object.metadata.annotations)", SLOW)
    async with (
        webhook(world, "deny", matchConditions=costly),
        world.place.client(world.replica, token="editor-token") as editor,
    ):
        loop = asyncio.get_running_loop()
        slow = asyncio.create_task(editor.post(POLICIES, json=made))
        await asyncio.sleep(0.1)
        begun = loop.time()
        assert (await admin.get("/readyz")).status_code == 200
        assert (await admin.post(POLICIES, json=policy(f"{name}-2"))).status_code == 201
        assert not slow.done(), "it was not costly"
        assert loop.time() - begun < 0.9
        assert (await slow).status_code == 403


async def test_a_flood_of_costly_writes_holds_up_nobody_else(
    world: World, admin: httpx.AsyncClient, name: str
) -> None:
    made = policy(name)
    made["metadata"]["annotations"] = {"big": "a" * 200_000}
    costly = conditions("has(object.metadata.annotations)", SLOW)
    loop = asyncio.get_running_loop()
    async with (
        webhook(world, "deny", matchConditions=costly),
        world.place.client(world.replica, token="editor-token") as editor,
    ):
        assert (await admin.post(POLICIES, json=policy(f"{name}-first"))).status_code == 201
        dry = {"dryRun": "All"}
        flood = [
            asyncio.create_task(editor.post(POLICIES, json=made, params=dry)) for _ in range(60)
        ]
        await asyncio.sleep(1.0)
        begun = loop.time()
        for number in range(10):
            answer = await admin.post(POLICIES, json=policy(f"{name}-{number}"))
            assert answer.status_code == 201, answer.text
        assert loop.time() - begun < 5
        assert not all(task.done() for task in flood), "it was none"
        answers = await asyncio.gather(*flood)
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert all(answer.headers["retry-after"] == "1" for answer in refused)
    assert {answer.status_code for answer in answers} == {403, 429}
