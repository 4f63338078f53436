"""What a client sees of the store behind the server, on each engine that outlives it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from storage.connect import connect
from tests.apiserver.test_resources import create, policy
from tests.lab.cluster import POLICIES
from tests.lab.processes import Server
from tests.storage.engines import LASTING, address, flags

DEFAULT = f"{POLICIES}/namespaces/default/networkpolicys"


class Engine:
    """A server and the address of its store."""

    def __init__(self, folder: Path, where: dict[str, Any]) -> None:
        self.where = where
        self.server = Server(folder, *flags(where))

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.server.url, trust_env=False, timeout=20)


@pytest.fixture(params=LASTING)
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    found = Engine(tmp_path, address(request, request.param))
    try:
        await found.server.start()
        yield found
    finally:
        await found.server.stop()


def version(obj: dict[str, Any]) -> int:
    return int(obj["metadata"]["resourceVersion"])


async def told(http: httpx.AsyncClient, after: int, until: int) -> list[tuple[str, str, int]]:
    """The events of a watch up to a version: type, name and version."""
    found = []
    params = {"watch": "1", "resourceVersion": str(after)}
    async with asyncio.timeout(15), http.stream("GET", DEFAULT, params=params) as answer:
        async for line in answer.aiter_lines():
            event = json.loads(line)
            obj = event["object"]
            assert event["type"] != "ERROR", obj
            found.append((event["type"], obj["metadata"]["name"], version(obj)))
            if version(obj) >= until:
                break
    return found


async def test_a_watch_goes_on_over_a_restart_of_the_server(engine: Engine) -> None:
    async with engine.client() as http:
        first = await create(http, DEFAULT, "a")
        second = await create(http, DEFAULT, "b")
        labelled = {**second, "metadata": {**second["metadata"], "labels": {"x": "y"}}}
        third = (await http.put(f"{DEFAULT}/b", json=labelled)).json()
        await http.delete(f"{DEFAULT}/a")
        fourth = await create(http, DEFAULT, "c")
    await engine.server.kill()
    await engine.server.start()
    async with engine.client() as http:
        expected = [
            ("ADDED", "b", version(second)),
            ("MODIFIED", "b", version(third)),
            ("DELETED", "a", version(third) + 1),
            ("ADDED", "c", version(fourth)),
        ]
        assert await told(http, version(first), version(fourth)) == expected
        # At the newest version there is nothing in the store's history, and the watch waits.
        watching = asyncio.create_task(told(http, version(fourth), version(fourth) + 1))
        await asyncio.sleep(0.3)
        last = await create(http, DEFAULT, "d")
        assert await watching == [("ADDED", "d", version(last))]


async def test_an_idle_watch_from_before_a_restart_is_told_the_next_change(engine: Engine) -> None:
    async with engine.client() as http:
        known = version(await create(http, DEFAULT, "a"))
        # Writes to other resources, so that the state is newer than anything in this one.
        for name in ("x", "y"):
            await http.post("/api/v1/namespaces", json={"metadata": {"name": name}})
    await engine.server.kill()
    await engine.server.start()
    async with engine.client() as http:
        watching = [asyncio.create_task(told(http, known, known + 3)) for _ in range(40)]
        await asyncio.sleep(1)
        made = await create(http, DEFAULT, "b")
        for outcome in await asyncio.gather(*watching):
            assert outcome == [("ADDED", "b", version(made))]


async def test_S05_reads_are_as_new_as_writes_to_any_resource(engine: Engine) -> None:
    async with engine.client() as http:
        for number in range(20):
            made = await http.post("/api/v1/namespaces", json={"metadata": {"name": f"n{number}"}})
            listed = (await http.get(DEFAULT)).json()
            assert version(listed) >= version(made.json())
            written = await create(http, DEFAULT, f"p{number}")
            got = await http.get(f"{DEFAULT}/p{number}")
            assert got.json() == written


async def test_S09_a_broken_object_breaks_nothing_else(engine: Engine) -> None:
    async with engine.client() as http:
        await create(http, DEFAULT, "good")
        start = version((await http.get(DEFAULT)).json())
    await engine.server.stop()
    store = await connect(**engine.where)
    prefix = "/net.alpha.kubernetes.io/networkpolicys/default"
    for name, value in (("bad", b"{"), ("worse", b"k8s\0\n\x04\n\x02v1")):
        await store.create(f"{prefix}/{name}", value)
    await store.close()
    await engine.server.start()
    async with engine.client() as http:
        for query in ({}, {"limit": "500"}, {"labelSelector": "!x"}):
            listed = (await http.get(DEFAULT, params=query)).json()
            assert [item["metadata"]["name"] for item in listed["items"]] == ["good"]
        exact = {"resourceVersion": str(version(listed)), "resourceVersionMatch": "Exact"}
        past = (await http.get(DEFAULT, params=exact)).json()
        assert [item["metadata"]["name"] for item in past["items"]] == ["good"]
        got = await http.get(f"{DEFAULT}/bad")
        assert got.status_code == 500
        assert "can be deleted or replaced by name" in got.json()["message"]
        ready = await http.get("/readyz?verbose")
        assert ready.status_code == 200
        assert "warn: 2 stored objects do not decode; their keys are in the log\n" in ready.text
        metrics = (await http.get("/metrics")).text
        named = 'group="net.alpha.kubernetes.io",resource="networkpolicys"'
        assert f"apiserver_storage_undecodable_objects{{{named}}} 2.0" in metrics
        logged = engine.server.events("stored object does not decode; it is not served")
        assert {line["key"] for line in logged} == {f"{prefix}/bad", f"{prefix}/worse"}
        # A watch tells nothing of them, and goes on.
        assert (await http.delete(f"{DEFAULT}/bad")).status_code == 200
        replaced = await http.put(f"{DEFAULT}/worse", json=policy("worse"))
        assert replaced.status_code == 200, replaced.text
        last = await create(http, DEFAULT, "bad")
        assert await told(http, start, version(last)) == [
            ("ADDED", "worse", version(replaced.json())),
            ("ADDED", "bad", version(last)),
        ]
        assert "warn:" not in (await http.get("/readyz?verbose")).text
