"""Large bodies: their memory is bounded, and they hold up nobody else."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from apiserver.api import builtin, status, strict
from apiserver.api.metadata import BODY_LIMIT
from apiserver.http.responses import COMPRESS_FROM
from apiserver.registry import large
from apiserver.registry.large import MOST, SMALL, Room
from apiserver.registry.strategies import STRATEGIES
from apiserver.registry.writer import Where, Writer
from storage.memory import MemoryStore
from tests.apiserver.rows.test_create import failure
from tests.apiserver.test_latency import Open
from tests.apiserver.test_resources import create, policy
from tests.lab.processes import Server

MANY = {f"key-{number:06d}": "v" for number in range(140_000)}  # 2.5 MB
YAML = {"Content-Type": "application/yaml"}
APPLY = {"Content-Type": "application/apply-patch+yaml"}


@asynccontextmanager
async def half_sent(server: Server, path: str, *headers: str) -> AsyncIterator[None]:
    """A request whose body is on its way, of so large a part that it is being read."""
    url = urlsplit(server.url)
    _, writer = await asyncio.open_connection(url.hostname, url.port)
    head = (f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers, "", "")
    writer.write("\r\n".join(head).encode())
    try:
        await writer.drain()
        yield
    finally:
        writer.close()


async def until_refused(http: httpx.AsyncClient, path: str, body: Any) -> httpx.Response:
    async with asyncio.timeout(10):
        while (answer := await http.post(path, params={"dryRun": "All"}, json=body)).is_success:
            await asyncio.sleep(0.01)
    return answer


async def test_FC01_large_bodies_find_room_or_are_429_and_small_ones_pass(
    server: Server, http: httpx.AsyncClient, policies: str
) -> None:
    large_one = policy("large", labels=dict.fromkeys(list(MANY)[:5000], "v"))
    announced = f"Content-Length: {BODY_LIMIT}"
    assert MOST // BODY_LIMIT == 2
    async with half_sent(server, policies, announced), half_sent(server, policies, announced):
        rest = MOST - 2 * BODY_LIMIT - SMALL
        async with half_sent(server, policies, f"Content-Length: {rest}"):
            refused = await until_refused(http, policies, large_one)
            assert failure(refused) == (
                429,
                "TooManyRequests",
                "Too many requests, please try again later.",
            )
            assert refused.headers["retry-after"] == "1"

            async def pieces() -> AsyncIterator[bytes]:
                yield json.dumps(large_one).encode()

            assert (await http.post(policies, content=pieces())).status_code == 429
            await create(http, policies, "small")
    async with asyncio.timeout(10):
        while not (await http.post(policies, json=large_one)).is_success:
            await asyncio.sleep(0.01)
    for _ in range(6):  # what is refused gives back its room as well
        broken = json.dumps(policy("x" * 300, labels=MANY))
        assert (await http.post(policies, content=broken)).status_code == 422
    too_much = "x" * (BODY_LIMIT + 1)
    for content in (too_much, pieces_of(too_much)):
        assert (await http.post(policies, content=content)).status_code == 413


async def pieces_of(text: str) -> AsyncIterator[bytes]:
    for start in range(0, len(text), 100_000):
        yield text[start : start + 100_000].encode()


@pytest.mark.parametrize("kind", ["labels", "rules", "owners", "yaml"])
async def test_others_are_served_while_a_large_body_is_looked_at(
    server: Server, http: httpx.AsyncClient, policies: str, kind: str
) -> None:
    headers = {}
    if kind == "labels":
        content = json.dumps(policy("p", labels=MANY))
    elif kind == "rules":
        content = json.dumps(policy("p", {"allowIncoming": [{"from": [{"pods": {}}]}] * 80_000}))
    elif kind == "owners":
        owner = {"apiVersion": "v1", "kind": "A", "name": "a"}
        owners = [{**owner, "uid": str(number)} for number in range(40_000)]
        content = json.dumps(policy("p", ownerReferences=owners))
    else:
        headers = YAML
        content = yaml.safe_dump(policy("p", labels=dict(list(MANY.items())[:14_000])))
        assert len(content) < strict.YAML_LIMIT
    start = time.monotonic()
    query = {"dryRun": "All", "fieldManager": "me"}
    posting = asyncio.create_task(
        http.post(policies, params=query, content=content, headers=headers)
    )
    longest = 0.0
    while not posting.done():
        before = time.monotonic()
        assert (await http.get("/readyz")).status_code == 200
        longest = max(longest, time.monotonic() - before)
        await asyncio.sleep(0.005)
    assert (await posting).status_code == 201
    assert longest < max(0.25, (time.monotonic() - start) / 2)


async def test_FC03_yaml_is_bounded_and_what_is_json_is_read_as_json(
    http: httpx.AsyncClient, policies: str
) -> None:
    text = yaml.safe_dump(policy("p", labels=MANY))
    refused = await http.post(policies, content=text, headers=YAML)
    assert failure(refused) == (
        413,
        "RequestEntityTooLarge",
        f"Request entity too large: limit of YAML is {strict.YAML_LIMIT}, JSON may be larger",
    )
    labels = dict.fromkeys(list(MANY)[:20000], "v")
    body = {"apiVersion": "net.alpha.kubernetes.io/v1alpha1", **policy("p", labels=labels)}
    query = {"fieldManager": "me"}
    content = json.dumps(body)
    assert len(content) > strict.YAML_LIMIT
    made = await http.patch(f"{policies}/p", params=query, content=content, headers=APPLY)
    assert made.status_code == 201
    change = {"metadata": {"labels": {"key-000000": "w"}}}  # small, but not what it changes
    merge = {"Content-Type": "application/merge-patch+json"}
    changed = await http.patch(f"{policies}/p", json=change, headers=merge)
    assert changed.json()["metadata"]["labels"] == {**labels, "key-000000": "w"}
    replaced = await http.put(f"{policies}/p", json=policy("p", labels={}))
    assert replaced.status_code == 200
    for accept in ("gzip", "identity"):
        wanted = {"Accept": "application/yaml", "Accept-Encoding": accept}
        query = {"dryRun": "All"}
        answer = await http.put(f"{policies}/p", params=query, json=body, headers=wanted)
        assert yaml.safe_load(answer.text)["metadata"]["labels"] == labels
        assert "content-encoding" not in answer.headers  # of a write, as of its JSON
    await http.put(f"{policies}/p", json=body)
    for accept in ("gzip", "identity"):
        wanted = {"Accept": "application/yaml", "Accept-Encoding": accept}
        for path in (policies, f"{policies}/p"):
            answer = await http.get(path, headers=wanted)
            assert len(answer.content) > COMPRESS_FROM  # as decoded
            assert answer.headers.get("content-encoding", "identity") == accept
            found = yaml.safe_load(answer.text)
            (item,) = found.get("items", [found])
            assert item["metadata"]["labels"] == labels


@pytest.mark.parametrize("text", ["[" * 200_000, "- " * 100_000, "{a: " * 50_000, "? " * 100_000])
def test_yaml_of_many_levels_is_refused_and_ends_no_process(text: str) -> None:
    with pytest.raises(status.StatusError) as refused:
        strict.decode_yaml(text.encode())
    assert refused.value.code == 400
    assert refused.value.message == "the object is nested more than 100 levels deep"


def test_duplicates_in_json_that_is_sent_as_yaml_are_told_in_the_words_of_yaml() -> None:
    twice = b'{"a": 1, "b": {"c": 1,\n"c": 2}}'
    assert strict.decode_yaml(twice) == (
        {"a": 1, "b": {"c": 2}},
        ['line 2: key "c" already set in map'],
    )
    assert strict.decode_yaml(b'{"a": 1e3, "b": "\\/"}') == ({"a": 1000.0, "b": "/"}, [])
    padded = twice + b" " * strict.YAML_LIMIT
    assert strict.decode_yaml(padded)[1] == ['duplicate field "b.c"']


async def test_what_is_stored_and_large_must_find_room_to_be_changed() -> None:
    strategy = next(one for one in STRATEGIES if one.resource is builtin.NETWORKPOLICYS)
    room = Room(3 * SMALL)
    writer = Writer(
        store=MemoryStore(), gate=Open(), clock=lambda: 0.0, rand=random.Random(1), room=room
    )
    where = Where(strategy, "default", "p")
    obj = policy("p", {}, annotations={"a": "x" * 2 * SMALL})
    await writer.create(where, obj, manager="m", size=2 * SMALL)

    def change(old: dict[str, Any]) -> dict[str, Any]:
        old["metadata"]["labels"] = {"a": "b"}
        return old

    room.take(SMALL)
    with pytest.raises(status.StatusError) as refused:
        await writer.update(where, change, manager="m")
    assert (refused.value.code, refused.value.retry_after) == (429, 1)
    with pytest.raises(status.StatusError):
        await writer.delete(where)
    room.give(SMALL)
    written = await writer.update(where, change, manager="m")
    assert json.loads(written.data)["metadata"]["labels"] == {"a": "b"}
    assert (await writer.delete(where)).deleted
    with room.taken(3 * SMALL):  # all of it was given back
        pass


async def test_what_is_done_aside_raises_where_it_is_waited_for() -> None:
    def fail() -> None:
        raise status.bad_request("no")

    with pytest.raises(status.StatusError, match="no"):
        await large.Aside("test").run(fail)
