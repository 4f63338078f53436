"""`kill -9` of the server in the middle of writes: what it acknowledged is there afterwards."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.lab.cluster import POLICIES
from tests.lab.processes import Server
from tests.storage.etcd_cluster import EtcdServer

PATH = f"{POLICIES}/namespaces/default/networkpolicys"


@pytest.fixture(params=["sqlite", "etcd"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    etcd = EtcdServer(tmp_path) if request.param == "etcd" else None
    started = Server(tmp_path, *(("--etcd-servers", etcd.endpoint) if etcd else ()))
    try:
        await started.start()
        yield started
    finally:
        await started.kill()
        if etcd:
            etcd.kill()


async def test_no_acknowledged_write_is_lost_and_no_revision_goes_back(server: Server) -> None:
    acknowledged: dict[str, int] = {}

    async def write(http: httpx.AsyncClient, worker: int) -> None:
        for number in range(10_000):
            body = {
                "kind": "NetworkPolicy",
                "metadata": {"name": f"p{len(acknowledged)}-{worker}-{number}"},
                "spec": {},
            }
            try:
                answer = await http.post(PATH, json=body)
            except httpx.TransportError:
                return
            assert answer.status_code == 201, answer.text
            meta = answer.json()["metadata"]
            acknowledged[meta["name"]] = int(meta["resourceVersion"])

    for crash in range(3):
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            writers = [asyncio.create_task(write(http, worker)) for worker in range(6)]
            await asyncio.sleep(0.25 + crash * 0.13)
            await server.kill()
            await asyncio.gather(*writers)
        highest = max(acknowledged.values())
        await server.start()
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            found = (await http.get(PATH)).json()
        kept = {
            o["metadata"]["name"]: int(o["metadata"]["resourceVersion"]) for o in found["items"]
        }
        assert acknowledged.items() <= kept.items()
        assert int(found["metadata"]["resourceVersion"]) >= highest


async def test_sigterm_ends_open_watches_and_exits_in_order(server: Server) -> None:
    async with (
        httpx.AsyncClient(base_url=server.url, trust_env=False) as http,
        http.stream("GET", PATH, params={"watch": "true"}) as watch,
    ):
        stopping = asyncio.create_task(server.stop())
        async with asyncio.timeout(8):
            assert [line async for line in watch.aiter_lines()] == []
            assert await stopping == 0
