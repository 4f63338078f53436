"""Policies with odd names, and policies that are wrong."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn import Config
from uvicorn import Server as Uvicorn

from tests.lab.cluster import POLICIES
from tests.lab.processes import EnforcerProcess, free_port
from tests.netns.conftest import rule, spec
from tests.netns.nodes.conftest import BACK1, FRONT1, OTHER1, PODS, Lab, pairs

FRONT = {"pods": {"role": "front"}}
TCP80 = {"port": 80}
LONGEST = ("x" * 63 + ".") * 3 + "x" * 61


async def test_D31_names_and_labels_of_any_shape_are_kept_apart(lab: Lab) -> None:
    await lab.api.isolate("a", "on")
    await lab.api.isolate("b", "on")
    odd = {"example.org/" + "k" * 63: "V" * 63, "a.b_c-d": "0..1__2--3", "empty": ""}
    for pod in (FRONT1, BACK1, OTHER1):
        await lab.api.label(pod.namespace, pod.name, odd)
    await lab.api.policy("a", LONGEST, spec("back", rule({"pods": odd}, ports=[TCP80])))
    await lab.api.policy(
        "b", LONGEST, spec("other", rule({"namespaces": {}}, ports=[{"port": 81}]))
    )
    have = await lab.check(pairs(kinds=[("tcp", 80), ("tcp", 81)]))
    passed = {
        (probe.source, probe.port)
        for probe, passed in have.items()
        if passed and probe.address in BACK1.ips and not probe.source.startswith("node")
    }
    assert passed == {("front-1", 80)}


def wrong(namespace: str, name: str, *rules: dict[str, Any]) -> dict[str, Any]:
    """A policy for every pod of a namespace, in which something is not as it must be."""
    return {
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"podSelector": {}, "allowIncoming": list(rules)},
    }


WRONG: tuple[dict[str, Any], ...] = (
    wrong("a", "zero", rule(ports=[{"port": 0}])),
    wrong("a", "protocol", rule(ports=[{"port": 81, "protocol": "QUIC"}])),
    wrong("a", "misspelt", {"form": [FRONT]}),
    wrong("b", "half", {}, rule({"pods": {}, "namespaces": {}})),
    {"metadata": {"namespace": "b", "name": "text"}, "spec": "anyone"},
)
GOOD: dict[str, Any] = {
    "metadata": {"namespace": "a", "name": "good"},
    "spec": spec("back", rule(FRONT)),
}


@asynccontextmanager
async def serving(items: list[dict[str, Any]]) -> AsyncIterator[str]:
    """A server of policies that checks nothing; its URL."""

    async def listed(request: Request) -> Response:
        if "watch" in request.query_params:
            await asyncio.sleep(60)
        return JSONResponse({"metadata": {"resourceVersion": "5"}, "items": items})

    routes, port = [Route(f"{POLICIES}/networkpolicys", listed)], free_port()
    lax = Uvicorn(Config(Starlette(routes=routes), port=port, lifespan="off", log_config=None))
    task = asyncio.create_task(lax.serve())
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        lax.should_exit = lax.force_exit = True
        await task


async def test_D32_policies_that_are_wrong_grant_nothing_and_disturb_no_other(
    lab: Lab, tmp_path: Path
) -> None:
    """The server refuses them; older ones that are in its store reach the enforcer all the same."""
    for namespace in ("a", "b"):
        await lab.api.isolate(namespace, "on")
    await lab.api.policy("a", "good", GOOD["spec"])
    old, node = lab.enforcers["node-1"], lab.site.nodes["node-1"]
    async with serving([*WRONG, GOOD]) as url:
        enforcer = EnforcerProcess(
            tmp_path,
            server=lab.server.url,
            netns=node.node.netns,
            arguments=["--node-name", "node-1", "--policy-server", url],
        )
        await old.stop()
        try:
            await enforcer.start()
            own = replace(lab, enforcers={"node-1": enforcer})
            have = await own.check(pairs(pods=[pod for pod in PODS if pod.name.endswith("1")]))
            assert any(have.values())
            async with httpx.AsyncClient(trust_env=False) as http:
                status = (await http.get(f"{enforcer.url}/status")).json()
            reported = {(one["namespace"], one["name"]) for one in status["policies"]["invalid"]}
            assert reported == {(o["metadata"]["namespace"], o["metadata"]["name"]) for o in WRONG}
        finally:
            await enforcer.stop()
            await old.start()
