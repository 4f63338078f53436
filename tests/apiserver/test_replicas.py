"""Two servers over one store: none need lead to serve, and each shows what the other writes."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.apiserver.test_engines import DEFAULT, told, version
from tests.apiserver.test_resources import create, policy
from tests.lab.cluster import POLICIES
from tests.lab.processes import Server
from tests.storage.engines import address, flags

Clients = tuple[httpx.AsyncClient, httpx.AsyncClient]


@pytest.fixture(params=["postgresql", "etcd"])
async def clients(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Clients]:
    """A client for each of two servers."""
    where = flags(address(request, request.param))
    servers = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        servers.append(Server(tmp_path / name, *where))
    try:
        await asyncio.gather(*(server.start() for server in servers))
        one, other = (
            httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20)
            for server in servers
        )
        async with one, other:
            yield one, other
    finally:
        for server in servers:
            await server.stop()


async def test_S14_L19_what_is_written_through_one_is_read_through_the_other(
    clients: Clients,
) -> None:
    for turn in range(30):
        writer, reader = clients[turn % 2], clients[(turn + 1) % 2]
        made = await create(writer, DEFAULT, f"p{turn}")
        assert (await reader.get(f"{DEFAULT}/p{turn}")).json() == made
        listed = (await reader.get(DEFAULT)).json()
        assert len(listed["items"]) == turn + 1
        assert version(listed) >= version(made)
        table = await reader.get(DEFAULT, params={"labelSelector": "none=such"})
        assert version(table.json()) >= version(made)


async def test_S14_both_tell_one_history(clients: Clients) -> None:
    start = version((await clients[0].get(DEFAULT)).json())
    made = [await create(clients[n % 2], DEFAULT, f"p{n}") for n in range(20)]
    await clients[1].delete(f"{DEFAULT}/p3")
    last = version(await create(clients[0], DEFAULT, "last"))
    one, other = await asyncio.gather(*(told(client, start, last) for client in clients))
    assert one == other
    assert one[:20] == [("ADDED", f"p{n}", version(obj)) for n, obj in enumerate(made)]
    assert [event[:2] for event in one[20:]] == [("DELETED", "p3"), ("ADDED", "last")]


async def test_S14_a_page_of_one_goes_on_at_the_other(clients: Clients) -> None:
    for number in range(7):
        await create(clients[0], DEFAULT, f"p{number}")
    page = (await clients[0].get(DEFAULT, params={"limit": "3"})).json()
    await create(clients[0], DEFAULT, "p31")
    names = [item["metadata"]["name"] for item in page["items"]]
    token = page["metadata"]["continue"]
    rest = (await clients[1].get(DEFAULT, params={"continue": token})).json()
    names += [item["metadata"]["name"] for item in rest["items"]]
    assert names == [f"p{number}" for number in range(7)]


async def test_C14_nothing_is_left_of_a_namespace_that_one_deletes_while_the_other_fills_it(
    clients: Clients,
) -> None:
    one, other = clients
    for turn in range(5):
        name = f"n{turn}"
        inside = f"{POLICIES}/namespaces/{name}/networkpolicys"
        made = await one.post("/api/v1/namespaces", json={"metadata": {"name": name}})
        assert made.status_code == 201
        going = asyncio.Event()

        async def fill(inside: str = inside, going: asyncio.Event = going) -> list[int]:
            answers = []
            for number in range(500):
                answer = await other.post(inside, json=policy(f"p{number}"))
                answers.append(answer.status_code)
                if answer.status_code != 201:
                    return answers
                if number == 5:
                    going.set()
            return answers

        filling = asyncio.gather(fill(), _until(going, one, f"/api/v1/namespaces/{name}"))
        answers, _ = await filling
        assert answers[-1] in (403, 404)
        async with asyncio.timeout(15):
            while (await one.get(f"/api/v1/namespaces/{name}")).status_code != 404:
                await asyncio.sleep(0.02)
        for client in clients:
            assert (await client.get(inside)).json()["items"] == []


async def _until(going: asyncio.Event, http: httpx.AsyncClient, namespace: str) -> None:
    await going.wait()
    assert (await http.delete(namespace)).status_code == 200
