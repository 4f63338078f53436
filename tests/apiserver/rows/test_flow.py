"""Section 20: limits, timeouts and shutdown."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.apiserver.rows.test_create import failure
from tests.lab.processes import Server

FUTURE = "/api/v1/namespaces?resourceVersion=99999999"  # such a request takes three seconds


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Server]:
    """A server that does two reads and one write at once."""
    limits = ("--max-requests-inflight", "2", "--max-mutating-requests-inflight", "1")
    server = Server(tmp_path, "--database-url", "memory:", *limits)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


async def test_FC01_W19_E14_E19_too_many_requests_are_429(small: Server) -> None:
    async with httpx.AsyncClient(base_url=small.url, trust_env=False) as http:
        watch = asyncio.create_task(http.get("/api/v1/namespaces?watch=1&timeoutSeconds=2"))
        slow = [asyncio.create_task(http.get(FUTURE)) for _ in range(2)]
        async with asyncio.timeout(2):
            while (refused := await http.get("/api/v1/namespaces")).status_code == 200:
                pass
        assert failure(refused) == (
            429,
            "TooManyRequests",
            "Too many requests, please try again later.",
        )
        assert refused.headers["retry-after"] == "1"
        body = {"kind": "Namespace", "metadata": {"name": "made"}}
        assert (await http.post("/api/v1/namespaces", json=body)).status_code == 201
        assert "made" in (await watch).text
        assert {(await task).status_code for task in slow} == {504}
        assert (await http.get("/api/v1/namespaces")).status_code == 200


async def test_FC04_a_request_has_its_time(tmp_path: Path) -> None:
    server = Server(tmp_path, "--database-url", "memory:", "--request-timeout", "200ms")
    try:
        await server.start()
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            answer = await http.get(FUTURE)
            assert failure(answer) == (
                504,
                "Timeout",
                "Timeout: request did not complete within the allotted timeout",
            )
            watch = await http.get("/api/v1/namespaces?watch=1&timeoutSeconds=1")
            assert watch.text.count("ADDED") == 3
    finally:
        await server.stop()


async def test_FC05_W18_requests_in_flight_are_finished_and_watches_end_cleanly(
    tmp_path: Path,
) -> None:
    server = Server(tmp_path, "--database-url", "memory:")
    await server.start()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        watch = asyncio.create_task(http.get("/api/v1/namespaces?watch=1"))
        slow = asyncio.create_task(http.get(FUTURE))
        await asyncio.sleep(0.5)
        server.send_signal(signal.SIGTERM)
        assert (await watch).text.count("ADDED") == 3
        assert (await slow).status_code == 504
    assert await server.wait() == 0


async def test_FC05_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    server = Server(tmp_path, "--database-url", "memory:", "--shutdown-delay-duration", "60s")
    await server.start()
    server.send_signal(signal.SIGTERM)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        while (await http.get("/readyz")).status_code == 200:
            await asyncio.sleep(0.01)
    server.send_signal(signal.SIGTERM)
    assert await server.wait() == 1
