"""Informers that we did not write: no event is lost, whatever happens to their connections.

Each runs as a process of its own and prints what it is told. The truth is one watch straight from
the server, which must hold every acknowledged write.
"""

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.apiserver.test_resources import MERGE, policy
from tests.informers.proxy import Proxy
from tests.lab.cluster import POLICIES, Api
from tests.lab.processes import Server

OPERATIONS = 10_000
WRITERS = 16
CUTS = 8
NODE = Path(__file__).parent / "node"
NAMESPACES = ("east", "west")
NAMES = [f"p{number}" for number in range(12)]

Told = dict[str, Any]


class Informer:
    """A process that watches through the proxy, and all that it was told."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.told: list[Told] = []
        self.state: dict[str, int] = {}
        self._command = command
        self._moved = asyncio.Condition()

    @asynccontextmanager
    async def running(self, log: Path) -> AsyncIterator["Informer"]:
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdout=asyncio.subprocess.PIPE, stderr=errors, limit=1 << 22
            )
        reading = asyncio.create_task(self._read(process))
        try:
            yield self
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await reading

    async def until(self, true: Callable[["Informer"], bool]) -> None:
        try:
            async with asyncio.timeout(30), self._moved:
                await self._moved.wait_for(lambda: true(self))
        except TimeoutError:
            raise AssertionError(f"{self.name} does not get there: {self.told[-3:]}") from None

    @property
    def lists(self) -> int:
        return sum(line["type"] == "LIST" for line in self.told)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for text in process.stdout:
            line = json.loads(text)
            async with self._moved:
                self._take(line)
                self._moved.notify_all()

    def _take(self, line: Told) -> None:
        self.told.append(line)
        match line["type"]:
            case "LIST":
                self.state = dict(line["items"])
            case "ADDED" | "MODIFIED":
                self.state[line["key"]] = line["version"]
            case "DELETED":
                self.state.pop(line["key"], None)


def informers(url: str) -> list[Informer]:
    modules = ("official", "light")
    found = [
        Informer(name, (sys.executable, "-m", f"tests.informers.{name}", url)) for name in modules
    ]
    if shutil.which("node"):
        found.append(Informer("node", ("node", str(NODE / "informer.mjs"), url)))
    return found


@pytest.fixture(scope="module", autouse=True)
def node_modules() -> None:
    """What the Node informer needs, from its lock file."""
    lock = NODE / "node_modules" / ".package-lock.json"
    if shutil.which("npm") and not lock.exists():
        command = ("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
        subprocess.run(command, cwd=NODE, check=True, env={**os.environ, "CI": "true"})


class Writers:
    """Random writes, straight to the server; `acknowledged` are the versions it answered with."""

    def __init__(self, url: str, seed: int) -> None:
        self._url = url
        self._rand = random.Random(seed)
        self._left = 0
        self.acknowledged: dict[int, str] = {}
        self.deleted = 0

    async def run(self, operations: int) -> None:
        self._left = operations
        limits = httpx.Limits(max_connections=WRITERS)
        async with (
            httpx.AsyncClient(base_url=self._url, trust_env=False, limits=limits) as http,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(WRITERS):
                tasks.create_task(self._write(http))

    async def _write(self, http: httpx.AsyncClient) -> None:
        rand = self._rand
        while self._left > 0:
            self._left -= 1
            namespace, name = rand.choice(NAMESPACES), rand.choice(NAMES)
            path = f"{POLICIES}/namespaces/{namespace}/networkpolicys"
            labels = {"labels": {"n": str(rand.randrange(1 << 30))}}
            match rand.randrange(4):
                case 0:
                    answer = await http.post(path, json=policy(name))
                case 1:
                    answer = await http.put(f"{path}/{name}", json=policy(name, **labels))
                case 2:
                    answer = await http.patch(
                        f"{path}/{name}", json={"metadata": labels}, headers=MERGE
                    )
                case _:
                    answer = await http.delete(f"{path}/{name}")
            assert answer.status_code in (200, 201, 404, 409), answer.text
            if answer.status_code not in (200, 201):
                continue
            body = answer.json()
            if body["kind"] == "Status":
                self.deleted += 1
            else:
                version = int(body["metadata"]["resourceVersion"])
                self.acknowledged[version] = f"{namespace}/{name}"


async def truth(url: str, start: int, end: int) -> list[Told]:
    """Every event after a version up to another, from one watch."""
    found: list[Told] = []
    params = {"watch": "true", "resourceVersion": str(start), "allowWatchBookmarks": "true"}
    path = f"{POLICIES}/networkpolicys"
    async with (
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http,
        http.stream("GET", path, params=params) as answer,
    ):
        async for text in answer.aiter_lines():
            event = json.loads(text)
            assert event["type"] in ("ADDED", "MODIFIED", "DELETED"), text
            meta = event["object"]["metadata"]
            version = int(meta["resourceVersion"])
            key = f"{meta['namespace']}/{meta['name']}"
            found.append({"type": event["type"], "key": key, "version": version})
            if version >= end:
                break
    return found


def check(informer: Informer, events: list[Told]) -> None:
    """Between two lists an informer is told exactly what happened, in order."""
    versions = [event["version"] for event in events]
    position = 0
    for line in informer.told:
        version = line.get("version", 0)
        if line["type"] == "LIST":
            position = version
        elif line["type"] != "ERROR" and version > position:
            expected = events[bisect_right(versions, position)]
            assert line == expected, f"{informer.name} was told {line} after {position}"
            position = version


async def listed(http: httpx.AsyncClient) -> tuple[dict[str, int], int]:
    body = (await http.get(f"{POLICIES}/networkpolicys")).json()
    items = {
        f"{item['metadata']['namespace']}/{item['metadata']['name']}": int(
            item["metadata"]["resourceVersion"]
        )
        for item in body["items"]
    }
    return items, int(body["metadata"]["resourceVersion"])


@asynccontextmanager
async def all_running(found: list[Informer], folder: Path) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for informer in found:
            await stack.enter_async_context(informer.running(folder / f"{informer.name}.err"))
        for informer in found:
            await informer.until(lambda i: i.lists > 0)
        yield


async def test_no_event_is_lost_in_ten_thousand_operations(tmp_path: Path) -> None:
    server = Server(tmp_path)
    await server.start()
    try:
        async with (
            httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as http,
            Proxy(server.url).serving() as proxy,
        ):
            for namespace in NAMESPACES:
                await Api(http).namespace(namespace)
            _, start = await listed(http)
            found = informers(proxy.url)
            async with all_running(found, tmp_path):
                writers = Writers(server.url, seed=1)
                writing = asyncio.create_task(writers.run(OPERATIONS))
                following = asyncio.create_task(_cut_now_and_then(proxy, writing))
                await asyncio.gather(writing, following)
                cuts = following.result()
                await http.post(f"{POLICIES}/namespaces/east/networkpolicys", json=policy("last"))
                expected, end = await listed(http)
                for informer in found:
                    await informer.until(lambda i: i.state == expected)
                events = await truth(server.url, start, end)
                assert cuts >= CUTS
                versions = {event["version"]: event["key"] for event in events}
                assert writers.acknowledged.items() <= versions.items()
                assert sum(e["type"] == "DELETED" for e in events) == writers.deleted
                for informer in found:
                    check(informer, events)
                    assert informer.lists == 1, f"{informer.name} could not resume"
                await _relist(server, proxy, http, found)
    finally:
        await server.stop()


async def _cut_now_and_then(proxy: Proxy, writing: "asyncio.Task[None]") -> int:
    cuts = 0
    while not writing.done():
        await asyncio.wait((writing,), timeout=0.6)
        cuts += bool(proxy.cut())
    return cuts


async def _relist(
    server: Server, proxy: Proxy, http: httpx.AsyncClient, found: list[Informer]
) -> None:
    """A server that has forgotten what a watch wants to go on from sends 410: all list again."""
    proxy.down = True
    proxy.cut()
    await Writers(server.url, seed=2).run(200)
    await server.stop()
    await server.start()
    proxy.down = False
    await http.post(f"{POLICIES}/namespaces/west/networkpolicys", json=policy("after"))
    expected, _ = await listed(http)
    for informer in found:
        await informer.until(lambda i: i.state == expected)
        assert informer.lists == 2, f"{informer.name} did not list again"
