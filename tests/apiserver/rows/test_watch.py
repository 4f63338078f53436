"""Section 15: watch."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from apiserver.http import watch
from tests.apiserver.rows.test_create import causes, failure
from tests.apiserver.test_resources import MERGE, TABLE, create, watching
from tests.lab.processes import FORGETFUL, Server, until_forgotten

WATCH_LIST = {
    "sendInitialEvents": "true",
    "resourceVersionMatch": "NotOlderThan",
    "allowWatchBookmarks": "true",
}


async def events(http: httpx.AsyncClient, path: str, **query: Any) -> list[dict[str, Any]]:
    """All events of a watch that ends in its time."""
    params = {"watch": "true", "timeoutSeconds": "1", **query}
    answer = await http.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


async def label(http: httpx.AsyncClient, url: str, **labels: str | None) -> dict[str, Any]:
    answer = await http.patch(url, json={"metadata": {"labels": labels}}, headers=MERGE)
    found: dict[str, Any] = answer.json()
    return found


def version(obj: dict[str, Any]) -> int:
    return int(obj["metadata"]["resourceVersion"])


@pytest.fixture(scope="module")
async def restarted(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that has forgotten what was before its start."""
    server = Server(tmp_path_factory.mktemp("restarted"), *FORGETFUL)
    try:
        await server.start()
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            await until_forgotten(client, "/api/v1/namespaces", 2)
        await server.stop()
        await server.start()
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            yield client
    finally:
        await server.stop()


async def test_W01_headers_come_first_and_an_event_is_a_line(
    http: httpx.AsyncClient, policies: str
) -> None:
    now = (await http.get(policies)).json()["metadata"]["resourceVersion"]
    params = {"watch": "true", "resourceVersion": now}
    async with http.stream("GET", policies, params=params) as answer:
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["transfer-encoding"] == "chunked"
        assert "content-length" not in answer.headers
        made = await create(http, policies, "p")
        line = await anext(answer.aiter_lines())
    assert json.loads(line) == {"type": "ADDED", "object": made}


async def test_W02_events_come_in_order_and_go_on_after_a_cut(
    http: httpx.AsyncClient, policies: str
) -> None:
    start = (await http.get(policies)).json()["metadata"]["resourceVersion"]
    rand = random.Random(7)
    written: list[int] = []

    async def write() -> None:
        for _ in range(300):
            url = f"{policies}/p{rand.randrange(5)}"
            made = await http.post(
                policies,
                json={
                    "metadata": {"name": url.rpartition("/")[2]},
                    "spec": {},
                },
            )
            if made.status_code == 409 and rand.random() < 0.5:
                await http.delete(url)
            elif made.status_code == 409:
                await label(http, url, n=str(rand.random())[2:10])
        written.append(version((await http.get(policies)).json()))

    seen: list[int] = []
    task = asyncio.create_task(write())
    position = int(start)
    while not task.done() or position < written[0]:
        params = {"watch": "true", "resourceVersion": str(position), "timeoutSeconds": "5"}
        async with http.stream("GET", policies, params=params) as answer:
            lines = answer.aiter_lines()
            for _ in range(rand.randrange(1, 40)):
                try:
                    async with asyncio.timeout(1):
                        position = version(json.loads(await anext(lines))["object"])
                except (TimeoutError, StopAsyncIteration):
                    break
                seen.append(position)
    await task
    whole = await events(http, policies, resourceVersion=start)
    assert seen == [version(event["object"]) for event in whole]
    assert seen == sorted(set(seen))


@pytest.mark.parametrize("query", [{}, {"resourceVersion": "0"}, {"resourceVersion": ""}])
async def test_W03_L11_without_a_version_the_state_comes_first(
    http: httpx.AsyncClient, policies: str, query: dict[str, str]
) -> None:
    made = [await create(http, policies, name) for name in ("b", "a")]
    found = await events(http, policies, **query)
    assert [(e["type"], e["object"]) for e in found] == [("ADDED", made[1]), ("ADDED", made[0])]


async def test_W04_a_watch_ends_cleanly_in_its_time(http: httpx.AsyncClient, policies: str) -> None:
    made = await create(http, policies, "p")
    begun = time.monotonic()
    assert await events(http, policies, resourceVersion=version(made)) == []
    assert 0.9 < time.monotonic() - begun < 10
    begun = time.monotonic()
    await events(http, policies, resourceVersion=version(made), timeoutSeconds="-1")
    assert time.monotonic() - begun < 10
    bad = await http.get(policies, params={"watch": "1", "timeoutSeconds": "x"})
    assert failure(bad)[2] == 'strconv.ParseInt: parsing "x": invalid syntax'


async def test_W05_W22_E10_an_old_version_is_one_error_event(
    restarted: httpx.AsyncClient,
) -> None:
    (event,) = await events(restarted, "/api/v1/namespaces", resourceVersion="1")
    assert event["type"] == "ERROR"
    status = event["object"]
    assert (status["kind"], status["reason"], status["code"]) == ("Status", "Expired", 410)
    assert status["message"].startswith("too old resource version: 1 (")


async def test_W06_a_version_of_the_future_is_waited_for(
    http: httpx.AsyncClient, policies: str
) -> None:
    newest = version((await http.get(policies)).json())
    async with watching(http, policies, resourceVersion=str(newest + 2)) as event:
        for name in ("a", "b"):
            await create(http, policies, name)
        made = await create(http, policies, "c")
        assert (await event())["object"] == made


async def test_W07_what_a_selector_shows(http: httpx.AsyncClient, policies: str) -> None:
    made = await create(http, policies, "p")
    url, query = f"{policies}/p", {"labelSelector": "a=x", "resourceVersion": str(version(made))}
    entered = await label(http, url, a="x")
    stayed = await label(http, url, b="y")
    left = await label(http, url, a="z")
    await label(http, url, c="unseen")
    await http.delete(url)
    found = await events(http, policies, **query)
    assert [event["type"] for event in found] == ["ADDED", "MODIFIED", "DELETED"]
    assert [event["object"] for event in found[:2]] == [entered, stayed]
    assert found[2]["object"]["metadata"]["labels"] == {"a": "x", "b": "y"}
    assert version(found[2]["object"]) == version(left)
    by_field = await events(
        http, policies, fieldSelector="spec.podSelector.a=x", resourceVersion=str(version(made))
    )
    assert [event["type"] for event in by_field] == ["MODIFIED"] * 4 + ["DELETED"]


async def test_W07_a_watch_of_one_name(http: httpx.AsyncClient, policies: str) -> None:
    for name in ("p", "q"):
        await create(http, policies, name)
    found = await events(http, policies, fieldSelector="metadata.name=q")
    assert [event["object"]["metadata"]["name"] for event in found] == ["q"]


async def test_W08_bookmarks_come_when_asked_for_and_before_the_end(
    http: httpx.AsyncClient, policies: str
) -> None:
    made = await create(http, policies, "p")
    query = {"resourceVersion": str(version(made)), "timeoutSeconds": "3"}
    begun = time.monotonic()
    async with watching(http, policies, allowWatchBookmarks="true", **query) as event:
        pod = {"metadata": {"name": "elsewhere"}, "spec": {}}
        answer = await http.post("/api/v1/namespaces/default/pods", json=pod)
        assert answer.status_code == 201
        bookmark = await event()
        assert time.monotonic() - begun < 2.9
    newest = version((await http.get(policies)).json())
    assert bookmark == {
        "type": "BOOKMARK",
        "object": {
            "kind": "NetworkPolicy",
            "apiVersion": "net.alpha.kubernetes.io/v1alpha1",
            "metadata": {"resourceVersion": str(newest)},
        },
    }
    assert await events(http, policies, **query) == []
    assert watch.BOOKMARK <= 30
    await http.delete("/api/v1/namespaces/default/pods/elsewhere")


@pytest.mark.parametrize("revision", ["", "0", "1"])
async def test_W09_W11_a_watch_list_marks_the_end_of_the_state(
    http: httpx.AsyncClient, policies: str, revision: str
) -> None:
    query = {**WATCH_LIST, "resourceVersion": revision}
    (empty,) = await events(http, policies, **query)
    assert empty["type"] == "BOOKMARK"
    assert empty["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    made = await create(http, policies, "p")
    assert version(empty["object"]) < version(made)
    state, end = await events(http, policies, **query)
    assert (state["type"], state["object"]) == ("ADDED", made)
    assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert version(end["object"]) >= version(made)
    table = await http.get(
        policies,
        params={"watch": "1", "timeoutSeconds": "1", **query},
        headers=TABLE,
    )
    last = json.loads(table.text.splitlines()[-1])["object"]
    assert last["kind"] == "Table"
    marked = last["rows"][0]["object"]["metadata"]["annotations"]
    assert marked == {"k8s.io/initial-events-end": "true"}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            {"sendInitialEvents": "true"},
            ["sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"],
        ),
        (
            {"resourceVersionMatch": "NotOlderThan"},
            ["resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"],
        ),
        (
            {"sendInitialEvents": "true", "resourceVersionMatch": "Exact"},
            [
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                'Unsupported value: "Exact": supported values: "NotOlderThan"',
            ],
        ),
    ],
)
async def test_W10_W20_what_a_watch_cannot_be_asked(
    http: httpx.AsyncClient, policies: str, query: dict[str, str], expected: list[str]
) -> None:
    answer = await http.get(policies, params={"watch": "true", **query})
    assert failure(answer)[:2] == (422, "Invalid")
    assert failure(answer)[2].startswith("ListOptions.meta.k8s.io")
    assert len(causes(answer)) == len(expected)
    assert all(text in failure(answer)[2] for text in expected)


async def test_W10_without_initial_events_a_watch_begins_now(
    http: httpx.AsyncClient, policies: str
) -> None:
    await create(http, policies, "old")
    query = {"sendInitialEvents": "false", "resourceVersionMatch": "NotOlderThan"}
    async with watching(http, policies, **query) as event:
        await asyncio.sleep(0.2)
        made = await create(http, policies, "new")
        assert (await event())["object"] == made


async def test_W11_a_watch_list_from_the_future_is_an_error_event(
    http: httpx.AsyncClient, policies: str
) -> None:
    query = {**WATCH_LIST, "resourceVersion": "99999999", "timeoutSeconds": "10"}
    async with watching(http, policies, **query) as event:
        found = await event()
    assert (found["type"], found["object"]["code"]) == ("ERROR", 504)
    assert found["object"]["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


async def test_W13_a_table_has_its_headers_once_and_one_row_an_event(
    http: httpx.AsyncClient, policies: str
) -> None:
    for name in ("p", "q"):
        await create(http, policies, name)
    answer = await http.get(policies, params={"watch": "1", "timeoutSeconds": "1"}, headers=TABLE)
    tables = [json.loads(line)["object"] for line in answer.text.splitlines()]
    assert [bool(table["columnDefinitions"]) for table in tables] == [True, False]
    assert tables[1]["columnDefinitions"] is None
    assert [len(table["rows"]) for table in tables] == [1, 1]


async def test_W13_an_error_is_never_a_table(restarted: httpx.AsyncClient) -> None:
    params = {"watch": "1", "resourceVersion": "1"}
    old = await restarted.get("/api/v1/namespaces", params=params, headers=TABLE)
    assert json.loads(old.text)["object"]["kind"] == "Status"


async def test_W15_the_prefix_of_old(http: httpx.AsyncClient, policies: str) -> None:
    for name in ("p", "q"):
        await create(http, policies, name)
    root, _, rest = policies.partition("/namespaces/")
    for path, expected in (
        (f"{root}/watch/namespaces/{rest}", ["p", "q"]),
        (f"{root}/watch/namespaces/{rest}/q", ["q"]),
    ):
        found = await events(http, path)
        assert [event["object"]["metadata"]["name"] for event in found] == expected
    everywhere = await events(http, f"{root}/watch/networkpolicys")
    assert {"p", "q"} <= {event["object"]["metadata"]["name"] for event in everywhere}


async def test_W16_a_websocket_gets_a_frame_an_event(
    server: Server, http: httpx.AsyncClient, policies: str
) -> None:
    made = [await create(http, policies, name) for name in ("a", "b")]
    url = server.url.replace("http", "ws") + policies + "?watch=true&timeoutSeconds=1"
    async with connect(url, subprotocols=["binary.k8s.io"], proxy=None) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "binary.k8s.io"
        frames = [frame async for frame in socket]
    assert all(isinstance(frame, str) and frame.endswith("}\n") for frame in frames)
    assert [json.loads(frame)["object"] for frame in frames] == made
    assert socket.close_code == 1000
    for path, code in ((policies, 400), ("/nope", 404), (f"{policies}?watch=1&limit=x", 400)):
        with pytest.raises(InvalidStatus) as refused:
            await connect(server.url.replace("http", "ws") + path, proxy=None)
        assert refused.value.response.status_code == code
        assert json.loads(refused.value.response.body or b"")["kind"] == "Status"


async def raw_watch(server: Server, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A watch whose bytes nobody reads unless the test does."""
    parts = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 14)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def rest(reader: asyncio.StreamReader) -> str:
    """What follows, up to the clean end of the body, without the framing of chunks."""
    received = b""
    async with asyncio.timeout(20):
        while not received.endswith(b"0\r\n\r\n"):
            more = await reader.read(1 << 20)
            assert more, f"cut off after {received[-300:]!r}"
            received += more
    return received.decode().replace("\r\n", "\n")


async def test_W17_a_slow_reader_holds_up_nobody_and_is_told_to_list_again(
    server: Server, http: httpx.AsyncClient, policies: str
) -> None:
    start = version((await http.get(policies)).json())
    reader, writer = await raw_watch(server, f"{policies}?watch=1&resourceVersion={start}")
    large = {"note": "x" * 200_000}
    try:
        async with watching(http, policies, resourceVersion=str(start)) as event:
            made = await create(http, policies, "p", annotations=large)
            assert (await event())["object"] == made
            for number in range(400):
                changed = await label(http, f"{policies}/p", n=str(number))
                assert version((await event())["object"]) == version(changed)
        received = await rest(reader)
    finally:
        writer.close()
        await writer.wait_closed()
    assert '"reason":"Expired"' in received[-1000:]
    await http.delete(f"{policies}/p")


async def test_W17_a_reader_that_pauses_misses_nothing(
    server: Server, http: httpx.AsyncClient, policies: str
) -> None:
    start = version((await http.get(policies)).json())
    path = f"{policies}?watch=1&resourceVersion={start}&timeoutSeconds=4"
    reader, writer = await raw_watch(server, path)
    try:
        await create(http, policies, "p", annotations={"note": "x" * 100_000})
        for number in range(100):
            last = await label(http, f"{policies}/p", n=str(number))
        received = await rest(reader)
    finally:
        writer.close()
        await writer.wait_closed()
    found = [line for line in received.splitlines() if line.startswith("{")]
    revisions = [version(json.loads(line)["object"]) for line in found]
    assert revisions == list(range(revisions[0], version(last) + 1))
    assert len(revisions) == 101


async def test_W17_a_watcher_that_leaves_is_let_go(
    server: Server, http: httpx.AsyncClient, policies: str
) -> None:
    async def watches() -> float:
        for line in (await http.get("/metrics")).text.splitlines():
            if line.startswith("apiserver_longrunning") and 'resource="networkpolicys"' in line:
                return float(line.rpartition(" ")[2])
        return 0

    before = await watches()
    _, writer = await raw_watch(server, f"{policies}?watch=1")
    assert await watches() == before + 1
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(5):
        while await watches() > before:
            await asyncio.sleep(0.01)


async def test_W20_an_error_before_the_start_is_a_status(
    http: httpx.AsyncClient, policies: str
) -> None:
    for query in ({"labelSelector": "a in ("}, {"fieldSelector": "spec.nope=1"}):
        answer = await http.get(policies, params={"watch": "true", **query})
        assert failure(answer)[:2] == (400, "BadRequest")
