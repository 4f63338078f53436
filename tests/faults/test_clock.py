"""The wall clock of the server jumps two days ahead, then three days back, in mid-run."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from tests.faults import policies
from tests.faults.apiserver import ApiServer
from tests.faults.client import Client
from tests.faults.clock import LIBRARY, Clock
from tests.faults.engines import arguments, serving
from tests.faults.run import Fault, Ongoing, run, spread

HOUR = 3_600
DAY = 24 * HOUR
JUMPS = (2 * DAY, -1 * DAY)
KEPT = ("--history-retention", "10m", "--compaction-interval", "1s")


@pytest.mark.skipif(not LIBRARY.exists(), reason="libfaketime is not on this machine")
@pytest.mark.parametrize("engine", ["sqlite", "etcd"])
async def test_a_jump_of_the_clock_disturbs_nothing(engine: str, tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    seen: list[int] = []
    jumps = iter(JUMPS)
    async with arguments(engine, tmp_path) as chosen:
        server = ApiServer(tmp_path / "api", *chosen, *KEPT, prefix=clock.prefix)

        async def jump(_: Ongoing) -> None:
            seconds = next(jumps)
            clock.jump(seconds)
            async with asyncio.timeout(20):
                while abs(await told(server) - seconds) > HOUR:
                    await asyncio.sleep(0.2)
            seen.append(seconds)

        async with serving(server) as addresses:
            report = await run(addresses, [Fault(at, jump) for at in spread(len(JUMPS))])
            assert await policies.status_at(addresses, report.first) == 200, "forgotten too early"
    assert seen == list(JUMPS)
    assert server.starts == 1
    assert report.unknown == report.unsent == report.breaks == 0
    report.mostly_succeeded()


async def told(server: ApiServer) -> float:
    """How far the time that the server gives to a new object is from the true one, in seconds."""
    client = Client([server.address])
    body = {"kind": "Namespace", "metadata": {"generateName": "made-"}}
    try:
        answer = await client.request("POST", "/api/v1/namespaces", orjson.dumps(body))
    finally:
        client.close()
    made = datetime.fromisoformat(orjson.loads(answer.body)["metadata"]["creationTimestamp"])
    return (made - datetime.now(UTC)).total_seconds()
