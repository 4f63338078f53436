"""How an enforcer starts: not before it knows everything, and with unknown pods closed."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn import Config
from uvicorn import Server as Uvicorn

from tests.lab.agents import Agents, Probe
from tests.lab.cluster import NODE_NAME, POLICIES, Api, PodSpec, expected
from tests.lab.processes import EnforcerProcess, Server, free_port
from tests.lab.world import World, world

PODS = (
    PodSpec("myns", "front", {"tier": "frontend", "role": "frontend"}, ("10.66.0.11", "fd66::11")),
    PodSpec("myns", "back", {"tier": "backend", "role": "backend"}, ("10.66.0.12", "fd66::12")),
    PodSpec("bob", "visitor", {}, ("10.66.0.13", "fd66::13")),
)
PORTS = (80, 443, 6379)
INPUTS = Path(__file__).resolve().parents[3] / "shared" / "inputs"


@pytest.fixture(scope="module")
async def place() -> AsyncIterator[tuple[World, Agents]]:
    with world({pod.host: pod.ips for pod in PODS}) as made:
        async with Agents([made.node, *made.hosts.values()], ports=PORTS) as agents:
            yield made, agents


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[tuple[Server, Api, httpx.AsyncClient]]:
    server = Server(tmp_path)
    try:
        await server.start()
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            made = Api(http)
            for name, labels in (("myns", {}), ("bob", {"user": "bob"})):
                await made.namespace(name, labels=labels)
            for pod in PODS:
                await made.pod(pod)
            yield server, made, http
    finally:
        await server.stop()


def enforcer(folder: Path, made: World, url: str, *arguments: str) -> EnforcerProcess:
    return EnforcerProcess(
        folder,
        server=url,
        netns=made.node.netns,
        arguments=["--node-name", NODE_NAME, *arguments],
    )


async def test_D10_nothing_is_committed_before_all_three_lists_are_there(
    place: tuple[World, Agents], tmp_path: Path
) -> None:
    """A server that answers for namespaces and pods, but not for policies."""
    asked = asyncio.Event()

    async def listed(request: Request) -> Response:
        if "watch" in request.query_params:
            await asyncio.sleep(30)
        items = [{"metadata": {"name": "x", "namespace": "x"}}]
        return JSONResponse({"metadata": {"resourceVersion": "5"}, "items": items})

    async def failing(request: Request) -> Response:
        asked.set()
        return Response(status_code=503)

    routes = [
        Route("/api/v1/{resource}", listed),
        Route(f"{POLICIES}/networkpolicys", failing),
    ]
    port = free_port()
    half = Uvicorn(Config(Starlette(routes=routes), port=port, lifespan="off", log_config=None))
    serving = asyncio.create_task(half.serve())
    process = enforcer(tmp_path, place[0], f"http://127.0.0.1:{port}")
    try:
        await process.begin()
        async with asyncio.timeout(10):
            await asked.wait()
        await asyncio.sleep(1)
        assert process.running
        assert process.events("committed") == []
        assert process.events("request failed")
    finally:
        await process.kill()
        half.should_exit = half.force_exit = True
        await serving


async def test_D14_an_address_of_the_range_is_closed_until_it_is_programmed(
    place: tuple[World, Agents], api: tuple[Server, Api, httpx.AsyncClient], tmp_path: Path
) -> None:
    made, agents = place
    server, objects, _ = api
    cidrs = ("--pod-cidr", "10.66.0.0/24", "--pod-cidr", "fd66::/64")
    process = enforcer(tmp_path, made, server.url, *cidrs)
    probes = [Probe(who, ip, "tcp", 80) for who in ("front", "node") for ip in PODS[2].ips]
    try:
        await objects.delete("/api/v1/namespaces/bob/pods/visitor")
        await process.start()
        have = await agents.probe(probes)
        assert {p.source for p, passed in have.items() if passed} == {"node"}
        await objects.pod(PODS[2])
        async with asyncio.timeout(5):
            while not all((await agents.probe(probes)).values()):
                await asyncio.sleep(0.02)
    finally:
        await process.stop()
        await cleanup(made)


async def cleanup(made: World) -> None:
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "enforcer.main", "cleanup", "--netns", made.node.netns
    )
    assert await done.wait() == 0


@pytest.mark.skipif(not INPUTS.is_dir(), reason="the files of 2016 are not beside the project")
@pytest.mark.parametrize(
    ("file", "namespace", "open_to"),
    [
        ("calico-example/5147cd2.backend-policy.yaml", "myns", {("front", "back", 80)}),
        (
            "calico-example/5147cd2.frontend-policy.yaml",
            "myns",
            {(who, "front", 80) for who in ("back", "visitor", "outside")},
        ),
        ("proposal/example1.allow-frontend.yaml", "myns", {("front", "back", 6379)}),
        ("proposal/example2.allow-tcp-443.yaml", "myns", {("visitor", "front", 443)}),
        (
            "proposal/example3.allow-all.yaml",
            "myns",
            {
                (who, to, port)
                for who in ("front", "back", "visitor", "outside")
                for to in ("front", "back")
                for port in PORTS
                if who != to
            },
        ),
        ("romana-demo/6bc6073.romana-np-frontend-to-backend.json", "myns", set()),
    ],
)
async def test_the_policies_of_2016_bite(
    place: tuple[World, Agents],
    api: tuple[Server, Api, httpx.AsyncClient],
    tmp_path: Path,
    file: str,
    namespace: str,
    open_to: set[tuple[str, str, int]],
) -> None:
    made, agents = place
    server, objects, http = api
    text = (INPUTS / file).read_text()
    body = json.loads(text) if file.endswith(".json") else yaml.safe_load(text)
    path = f"{POLICIES}/namespaces/{namespace}/networkpolicys"
    version = body["apiVersion"]
    body["metadata"]["namespace"] = namespace
    if version != "net.alpha.kubernetes.io/v1alpha1":
        refused = await http.post(path, json=body)
        assert refused.status_code == 400
        assert version in refused.json()["message"]
        del body["apiVersion"]
    await objects.create(path, body)
    await objects.isolate(namespace, "on")
    process = enforcer(tmp_path, made, server.url)
    try:
        await process.start()
        names = {pod.host: pod.ips for pod in PODS[:2]}
        asked = {
            (who, to, port): Probe(who, ip, "tcp", port)
            for who in ("front", "back", "visitor", "outside")
            for to, ips in names.items()
            for ip in ips[:1]
            for port in PORTS
            if who != to
        }
        have = await agents.probe(asked.values())
        assert {key for key, probe in asked.items() if have[probe]} == open_to
        assert have == expected(made, await objects.cluster(), asked.values())
    finally:
        await process.stop()
        await cleanup(made)
