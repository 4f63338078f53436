"""Informers that we did not write: no event is lost, whatever happens to their connections.

Each runs as a process of its own behind a proxy of its own, and prints what it is told. The
writers speak to the server directly.
"""

import asyncio
import os
import random
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.informers.informer import NODE, Informer, Told
from tests.informers.writers import NAMESPACES, Writers, history, listed, write
from tests.lab.cluster import POLICIES, Api
from tests.lab.processes import FORGETFUL, Server, until_forgotten

OPERATIONS = 10_000  # about half of them find what they need and change something
CUTS = 10
BETWEEN = 350  # lines that an informer is told between two cuts

_MODULES = NODE / "node_modules" / ".package-lock.json"
_NO_NODE = not shutil.which("node") or not (shutil.which("npm") or _MODULES.exists())
_SKIP = pytest.mark.skipif(_NO_NODE, reason="node and npm are not on this machine")
CLIENTS = ["official", "light", pytest.param("node", marks=_SKIP)]
PRESENT = ["official", "light", *([] if _NO_NODE else ["node"])]

each_client = pytest.mark.parametrize("client", CLIENTS)


@dataclass(frozen=True, slots=True)
class Run:
    """Ten thousand operations: what the server holds and did, and what each informer made of it."""

    items: dict[str, int]
    history: list[Told]
    writers: Writers
    informers: dict[str, Informer]


@pytest.fixture(scope="module", autouse=True)
def node_modules() -> None:
    """What the Node informer needs, from its lock file."""
    lock = NODE / "package-lock.json"
    fresh = _MODULES.exists() and _MODULES.stat().st_mtime >= lock.stat().st_mtime
    if _NO_NODE or fresh or not shutil.which("npm"):
        return
    command = ("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
    subprocess.run(command, cwd=NODE, check=True, env={**os.environ, "CI": "true"})


@asynccontextmanager
async def serving(folder: Path, *arguments: str) -> AsyncIterator[tuple[Server, httpx.AsyncClient]]:
    server = Server(folder, *arguments)
    try:
        await server.start()
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as http:
            for namespace in NAMESPACES:
                await Api(http).namespace(namespace)
            yield server, http
    finally:
        await server.stop()


@asynccontextmanager
async def informing(
    names: Iterable[str], server: str, folder: Path
) -> AsyncIterator[dict[str, Informer]]:
    found = {name: Informer(name, server) for name in names}
    async with AsyncExitStack() as stack:
        for informer in found.values():
            await stack.enter_async_context(informer.running(folder))
        yield found


@pytest.fixture(scope="module")
async def run(tmp_path_factory: pytest.TempPathFactory, node_modules: None) -> AsyncIterator[Run]:
    folder = tmp_path_factory.mktemp("run")
    async with serving(folder, "--database-url", "memory:") as (server, http):
        _, start = await listed(http)
        async with informing(PRESENT, server.url, folder) as found:
            writers = Writers(server.url, seed=1)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(writers.run(OPERATIONS))
                for number, informer in enumerate(found.values()):
                    tasks.create_task(cut_often(informer, random.Random(number)))
            last = await created(http, "east", "last")
            items, end = await listed(http)
            for informer in found.values():
                await informer.until(lambda i=informer: _last(i) >= last)  # type: ignore[misc]
            yield Run(items, await history(http, start, end), writers, found)


async def cut_often(informer: Informer, rand: random.Random) -> None:
    """Every so many lines, somewhere in a line; the writers go on meanwhile."""
    for number in range(1, CUTS + 1):
        told = number * BETWEEN
        await informer.until(lambda told=told: len(informer.told) >= told)  # type: ignore[misc]
        await informer.proxy.cut_after(rand.randrange(1, 3_000))


async def created(http: httpx.AsyncClient, namespace: str, name: str) -> int:
    """The version of an object that is the last; the server's own writes may go on."""
    answer = await write(http, "POST", namespace, name)
    assert answer.status_code == 201
    return int(answer.json()["metadata"]["resourceVersion"])


def _last(informer: Informer) -> int:
    return int(informer.told[-1].get("version", 0))


def last_of(run: Run) -> int:
    return int(run.history[-1]["version"])


def test_the_history_is_exactly_what_was_acknowledged(run: Run) -> None:
    kept = {e["version"]: e["key"] for e in run.history if e["type"] != "DELETED"}
    assert kept.pop(last_of(run)) == "east/last"
    assert kept == run.writers.acknowledged
    assert sum(e["type"] == "DELETED" for e in run.history) == run.writers.deleted
    assert len(run.history) > OPERATIONS // 3


def test_the_history_makes_sense_for_each_object(run: Run) -> None:
    there: dict[str, int] = {}
    last = 0
    for event in run.history:
        assert event["version"] > last, event
        last = event["version"]
        assert (event["key"] in there) == (event["type"] != "ADDED"), event
        if event["type"] == "DELETED":
            del there[event["key"]]
        else:
            there[event["key"]] = event["version"]
    assert there == run.items


@each_client
def test_it_was_told_the_whole_history_once_and_in_order_over_all_cuts(
    client: str, run: Run
) -> None:
    informer = run.informers[client]
    assert informer.lists == 1, "it resumes, it does not list again"
    assert informer.watched() == run.history


@each_client
def test_its_cache_is_what_the_server_lists(client: str, run: Run) -> None:
    assert run.informers[client].state == run.items


SCRIPT = [
    ("POST", "new", "ADDED"),
    ("PATCH", "new", "MODIFIED"),
    ("PUT", "kept", "MODIFIED"),
    ("DELETE", "kept", "DELETED"),
    ("DELETE", "new", "DELETED"),
    ("POST", "kept", "ADDED"),
]
SEEN = [(event, f"east/{name}") for _, name, event in SCRIPT]


async def play(http: httpx.AsyncClient) -> None:
    for mark, (verb, name, _) in enumerate(SCRIPT, start=1):
        assert (await write(http, verb, "east", name, mark)).is_success


def told(informer: Informer, number: int = 1) -> list[tuple[str, str]]:
    return [(line["type"], line["key"]) for line in informer.watched(number)]


@each_client
async def test_it_lists_is_told_each_change_and_goes_on_where_it_was_cut_off(
    client: str, tmp_path: Path
) -> None:
    async with serving(tmp_path, "--database-url", "memory:") as (server, http):
        await write(http, "POST", "east", "kept")
        items, version = await listed(http)
        async with informing([client], server.url, tmp_path) as found:
            informer = found[client]
            assert informer.told[0] == {"type": "LIST", "version": version, "items": items}
            await play(http)
            await informer.until(lambda: len(told(informer)) >= len(SEEN))
            assert told(informer) == SEEN
            for number in (2, 3, 4):
                informer.proxy.down = True
                informer.proxy.cut()
                await play(http)
                informer.proxy.down = False
                count = number * len(SEEN)
                await informer.until(lambda count=count: len(told(informer)) >= count)  # type: ignore[misc]
                assert told(informer) == SEEN * number
            assert informer.lists == 1
            assert informer.state == (await listed(http))[0]


@pytest.fixture(scope="module")
async def forgotten(
    tmp_path_factory: pytest.TempPathFactory, node_modules: None
) -> AsyncIterator[tuple[dict[str, int], dict[str, Informer]]]:
    """The end of a story: all cut off, much was written, and the server forgot it in a restart."""
    folder = tmp_path_factory.mktemp("forgotten")
    async with serving(folder, *FORGETFUL) as (server, http):
        await Writers(server.url, seed=2).run(50)
        async with informing(PRESENT, server.url, folder) as found:
            for informer in found.values():
                informer.proxy.down = True
                informer.proxy.cut()
            _, known = await listed(http)
            await Writers(server.url, seed=3).run(100)
            await until_forgotten(http, f"{POLICIES}/networkpolicys", known)
            await server.stop()
            await server.start()
            for informer in found.values():
                informer.proxy.down = False
                await informer.until(lambda i=informer: i.lists == 2)  # type: ignore[misc]
            last = await created(http, "west", "after")
            items, _ = await listed(http)
            for informer in found.values():
                await informer.until(lambda i=informer: _last(i) >= last)  # type: ignore[misc]
            yield items, found


@each_client
def test_it_lists_again_when_the_server_has_forgotten_its_version(
    client: str, forgotten: tuple[dict[str, int], dict[str, Informer]]
) -> None:
    items, found = forgotten
    assert found[client].lists == 2
    assert told(found[client], 2) == [("ADDED", "west/after")]
    assert found[client].state == items
