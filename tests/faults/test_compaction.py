"""History is forgotten after a second, under running watches: only who was away longer knows."""

import asyncio
from pathlib import Path

import pytest

from tests.faults import policies
from tests.faults.apiserver import ApiServer
from tests.faults.engines import ENGINES, arguments, serving
from tests.faults.run import OPERATIONS, Fault, Ongoing, run

SHORT = ("--history-retention", "1s", "--compaction-interval", "200ms")
AWAY = 3.0  # seconds: longer than history is kept
GONE = 410


@pytest.mark.parametrize("engine", ENGINES)
async def test_live_watchers_lose_nothing(engine: str, tmp_path: Path) -> None:
    async with (
        arguments(engine, tmp_path) as chosen,
        serving(ApiServer(tmp_path / "api", *chosen, *SHORT)) as addresses,
    ):
        report = await run(addresses, [])
        assert await policies.status_at(addresses, report.first) == GONE
    assert report.expired == report.unknown == report.breaks == 0
    report.mostly_succeeded()


@pytest.mark.parametrize("engine", ["etcd", "postgresql"])
async def test_a_watcher_that_was_away_for_longer_lists_again_and_nothing_else(
    engine: str, tmp_path: Path
) -> None:
    """It comes back to a server that started meanwhile, and so remembers nothing of its own."""
    async with arguments(engine, tmp_path) as chosen:
        stayed, fresh = (ApiServer(tmp_path / name, *chosen, *SHORT) for name in ("one", "two"))

        async def leave(ongoing: Ongoing) -> None:
            watcher = ongoing.watchers[-1]
            watcher.relist = True
            watcher.stay_away()
            await asyncio.sleep(AWAY)
            await fresh.kill()
            await fresh.start()
            watcher.come_back([fresh.address])

        async with serving(stayed, fresh) as addresses:
            report = await run(addresses, [Fault(OPERATIONS // 4, leave)])
    assert fresh.starts == 2
    assert report.expired == 1
    report.mostly_succeeded()
