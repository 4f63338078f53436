"""`kill -9` of the API server in the middle of writes, several times, on each engine."""

from pathlib import Path

import pytest

from tests.faults.apiserver import ApiServer
from tests.faults.engines import ENGINES, arguments, serving
from tests.faults.run import Fault, Ongoing, run, spread

KILLS = 4


@pytest.mark.parametrize("engine", ENGINES)
async def test_nothing_is_lost_or_doubled_when_the_server_is_killed(
    engine: str, tmp_path: Path
) -> None:
    async with arguments(engine, tmp_path) as chosen:
        server = ApiServer(tmp_path, *chosen)

        async def crash(_: Ongoing) -> None:
            await server.kill()
            await server.start()

        async with serving(server) as addresses:
            report = await run(addresses, [Fault(at, crash) for at in spread(KILLS)])
    assert server.starts == 1 + KILLS
    assert report.unknown >= KILLS
    assert report.unsent >= KILLS
    assert report.breaks >= KILLS
    report.mostly_succeeded()
