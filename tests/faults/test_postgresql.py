"""PostgreSQL itself is killed, or stands still, and comes back."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.apiserver import ApiServer
from tests.faults.client import Server
from tests.faults.engines import serving
from tests.faults.run import Fault, Ongoing, run, spread
from tests.storage.postgres_server import PostgresServer

KILLS = 3
STILL = 3.0  # seconds: longer than half of the clients wait for an answer

Lab = tuple[PostgresServer, ApiServer, list[Server]]


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    postgres = await asyncio.to_thread(PostgresServer, tmp_path)
    try:
        server = ApiServer(tmp_path / "api", "--database-url", postgres.url)
        async with serving(server) as addresses:
            yield postgres, server, addresses
    finally:
        await asyncio.to_thread(postgres.kill)


async def test_nothing_is_lost_when_it_is_killed(lab: Lab) -> None:
    postgres, server, addresses = lab
    killed = 0

    async def crash(_: Ongoing) -> None:
        nonlocal killed
        await asyncio.to_thread(postgres.kill)
        await asyncio.to_thread(postgres.start)
        killed += 1

    report = await run(addresses, [Fault(at, crash) for at in spread(KILLS)])
    assert killed == KILLS
    assert server.starts == 1
    assert report.unknown >= KILLS
    report.mostly_succeeded()


async def test_nothing_is_lost_when_it_stands_still(lab: Lab) -> None:
    postgres, server, addresses = lab
    paused = 0

    async def pause(_: Ongoing) -> None:
        nonlocal paused
        postgres.pause()
        try:
            await asyncio.sleep(STILL)
        finally:
            postgres.resume()
        paused += 1

    report = await run(addresses, [Fault(at, pause) for at in spread(2)])
    assert paused == 2
    assert server.starts == 1
    assert report.unknown > 0
    report.mostly_succeeded()
