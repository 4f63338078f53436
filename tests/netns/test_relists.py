"""Lists that come again and again, long ones, with the same objects: nothing happens to packets."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn import Config
from uvicorn import Server as Uvicorn

import policy
from enforcer.nft.kernel import Kernel
from tests.lab.cluster import NODE_NAME, POLICIES
from tests.lab.processes import free_port
from tests.netns.conftest import Lab
from tests.netns.own import SHARED, metric, told

PODS = 1500  # several pieces of what is taken in at a time
EXPIRED = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
ISOLATED = {"name": "n", "annotations": {policy.ISOLATION_ANNOTATION: "on"}}


def pod(number: int) -> dict[str, Any]:
    ip = f"10.20.{number // 250}.{number % 250 + 1}"
    return {
        "metadata": {"name": f"p{number}", "namespace": "n", "labels": {"app": f"{number % 7}"}},
        "spec": {"nodeName": NODE_NAME if number % 3 == 0 else "node-2"},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    }


OBJECTS: dict[str, list[dict[str, Any]]] = {
    "namespaces": [{"metadata": ISOLATED}],
    "pods": [pod(number) for number in range(PODS)],
    "networkpolicys": [
        {
            "metadata": {"name": f"q{number}", "namespace": "n"},
            "spec": {
                "podSelector": {"app": f"{number}"},
                "allowIncoming": [{"from": [{"pods": {"app": f"{(number + 1) % 7}"}}]}],
            },
        }
        for number in range(7)
    ],
}


@asynccontextmanager
async def forgetful() -> AsyncIterator[tuple[str, Counter[str]]]:
    """A server that has forgotten what was before, each time it is asked; how often it listed."""
    listed: Counter[str] = Counter()

    async def answer(request: Request) -> Response:
        resource = request.path_params["resource"]
        if "watch" in request.query_params:
            await asyncio.sleep(0.05)
            return Response(json.dumps({"type": "ERROR", "object": EXPIRED}) + "\n")
        listed[resource] += 1
        meta = {"resourceVersion": str(listed[resource])}
        return JSONResponse({"metadata": meta, "items": OBJECTS[resource]})

    routes = [Route(f"{prefix}/{{resource}}", answer) for prefix in ("/api/v1", POLICIES)]
    port = free_port()
    server = Uvicorn(Config(Starlette(routes=routes), port=port, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve())
    try:
        yield f"http://127.0.0.1:{port}", listed
    finally:
        server.should_exit = server.force_exit = True
        await serving


async def test_D11_lists_of_the_same_objects_cause_no_transaction(
    vacant: Lab, tmp_path: Path, kernel: Kernel
) -> None:
    async with forgetful() as (url, listed):
        lab = vacant.other(tmp_path, *SHARED, "--verify-every", "1", server=url)
        try:
            await lab.enforcer.start()
            generation, begun = await kernel.generation(), dict(listed)
            async with asyncio.timeout(20):
                while min(listed[name] - begun[name] for name in listed) < 3:
                    await asyncio.sleep(0.05)
                lab.enforcer.send_signal(signal.SIGHUP)
                while await metric(lab, 'verify_total{result="ok"}') < 2:
                    await asyncio.sleep(0.05)
            assert await kernel.generation() == generation
            assert await metric(lab, 'verify_total{result="different"}') == 0
            assert await told(lab, "/readyz") == "ok"
        finally:
            await lab.enforcer.stop()
