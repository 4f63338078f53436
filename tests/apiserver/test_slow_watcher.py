"""A client that does not take its events: it is ended and counted, and nobody waits for it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.apiserver.test_engines import told, version
from tests.apiserver.test_resources import create
from tests.lab.cluster import POLICIES
from tests.lab.processes import Server

DEFAULT = f"{POLICIES}/namespaces/default/networkpolicys"
PODS = "/api/v1/namespaces/default/pods"
LARGE = "x" * 200_000  # of an annotation: a ring of 64 MiB holds some 160 changes of it


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    started = Server(tmp_path, "--database-url", "memory:")
    try:
        await started.start()
        yield started
    finally:
        await started.stop()


def stuck(server: Server, path: str, query: str) -> socket.socket:
    """A watch of which only the head is read; its buffer is small."""
    url = urlsplit(server.url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((url.hostname, url.port))
    sock.sendall(f"GET {path}?watch=1&{query} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode())
    assert sock.recv(4096, socket.MSG_PEEK).startswith(b"HTTP/1.1 200 ")
    return sock


async def change(http: httpx.AsyncClient, times: int) -> None:
    """Change a large pod, and a policy as often."""
    for turn in range(times):
        patch = {"metadata": {"annotations": {"large": f"{turn}{LARGE}"}}}
        answer = await http.patch(
            f"{PODS}/p", json=patch, headers={"Content-Type": "application/merge-patch+json"}
        )
        assert answer.status_code == 200, answer.text


async def metric(http: httpx.AsyncClient, name: str) -> float:
    lines = (await http.get("/metrics")).text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)


async def test_a_client_that_takes_nothing_is_ended_and_counted(server: Server) -> None:
    ended = 'apiserver_terminated_watchers_total{group="",resource="pods"}'
    watching = 'apiserver_longrunning_requests{component="apiserver",group="",resource="pods"'
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20) as http:
        pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        made = await http.post(PODS, json=pod)
        assert made.status_code == 201, made.text
        start = version(made.json())
        silent = [stuck(server, PODS, f"resourceVersion={start}") for _ in range(3)]
        # One that is as slow to take the state that it begins with.
        silent.append(stuck(server, PODS, "labelSelector=!none"))
        await change(http, 20)
        assert await metric(http, ended) == 0
        reading = asyncio.create_task(_all(http, start))
        await change(http, 400)
        async with asyncio.timeout(20):
            while await metric(http, ended) < len(silent):
                await asyncio.sleep(0.1)
            while await metric(http, watching) > 1:
                await asyncio.sleep(0.1)
        for line in server.events("watch ended: its client was too slow, or the cache began anew"):
            assert line["resource"] == "pods"
        # One that reads has got all of it, and another resource was not touched.
        last = version((await http.get(f"{PODS}/p")).json())
        async with asyncio.timeout(20):
            assert await reading == last
        policy = await create(http, DEFAULT, "a")
        assert await told(http, last, version(policy)) == [("ADDED", "a", version(policy))]
        for sock in silent:
            assert _parting(sock)
            sock.close()


def _parting(sock: socket.socket) -> bool:
    """Whether the client finds its connection dropped, or the reason if it reads just in time."""
    sock.settimeout(10)
    end = b""
    try:
        while b'"code":410' not in end:
            if not (data := sock.recv(1 << 20)):
                return True
            end = end[-1000:] + data
    except ConnectionResetError:
        return True
    return b"fell behind the events that are kept; list again" in end


async def _all(http: httpx.AsyncClient, start: int) -> int:
    """Read a watch until 420 changes have come, each in its place; the last one's version."""
    params = {"watch": "1", "resourceVersion": str(start)}
    seen = start
    async with http.stream("GET", PODS, params=params) as answer:
        async for line in answer.aiter_lines():
            assert line.startswith('{"type":"MODIFIED"')
            marker = '"resourceVersion":"'
            found = int(line[line.index(marker) + len(marker) :].split('"', 1)[0])
            assert found == seen + 1
            seen = found
            if seen == start + 420:
                break
    return seen


async def test_a_stuck_client_does_not_keep_its_watch_past_its_time(server: Server) -> None:
    watching = 'apiserver_longrunning_requests{component="apiserver",group="",resource="pods"'
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20) as http:
        pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        assert (await http.post(PODS, json=pod)).status_code == 201
        sock = stuck(server, PODS, "timeoutSeconds=2")
        await change(http, 60)
        async with asyncio.timeout(15):
            while await metric(http, watching):
                await asyncio.sleep(0.1)
        sock.close()
        sock = stuck(server, PODS, "resourceVersion=0")
        await change(http, 60)
        async with asyncio.timeout(15):
            assert await server.stop() == 0
        sock.close()
        await server.start()
