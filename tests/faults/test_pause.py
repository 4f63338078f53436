"""A server stands still for some seconds, as on a starved host, and goes on."""

import asyncio
from pathlib import Path

import pytest

from tests.faults.apiserver import ApiServer
from tests.faults.engines import arguments, serving
from tests.faults.run import Fault, Ongoing, run, spread

STILL = 3.0  # seconds: longer than half of the clients wait for an answer


@pytest.mark.parametrize("engine", ["etcd", "postgresql"])
async def test_nothing_is_lost_when_one_of_two_servers_stands_still(
    engine: str, tmp_path: Path
) -> None:
    async with arguments(engine, tmp_path) as chosen:
        servers = [ApiServer(tmp_path / name, *chosen) for name in ("one", "two")]
        order = iter(servers)

        async def pause(_: Ongoing) -> None:
            server = next(order)
            server.pause()
            try:
                await asyncio.sleep(STILL)
            finally:
                server.resume()

        async with serving(*servers) as addresses:
            report = await run(addresses, [Fault(at, pause) for at in spread(2)])
    assert next(order, None) is None
    assert report.unknown > 0
    report.mostly_succeeded()
