"""Three etcd members and two API servers: a member is killed, or stands still, and comes back."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.apiserver import ApiServer
from tests.faults.client import Server
from tests.faults.engines import serving
from tests.faults.run import OPERATIONS, Fault, Ongoing, run, spread
from tests.storage.etcd_cluster import EtcdCluster

FAULTS = 3
AWAY = OPERATIONS // 20  # operations that are done while a follower is away
STILL = 3.0  # seconds that a leader stands still: two elections

Lab = tuple[EtcdCluster, list[Server]]


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    cluster = await asyncio.to_thread(EtcdCluster, tmp_path)
    try:
        stored = ("--etcd-servers", cluster.endpoints)
        servers = [ApiServer(tmp_path / name, *stored) for name in ("one", "two")]
        async with serving(*servers) as addresses:
            yield cluster, addresses
    finally:
        cluster.kill()


async def test_nothing_is_lost_when_a_follower_is_killed(lab: Lab) -> None:
    cluster, addresses = lab
    away: list[int] = []

    async def crash(ongoing: Ongoing) -> None:
        member = await asyncio.to_thread(cluster.follower)
        member.kill()
        first = ongoing.workload.done
        await ongoing.workload.reached(first + AWAY)
        assert not await asyncio.to_thread(member.healthy)
        away.append(ongoing.workload.done - first)
        await asyncio.to_thread(cluster.start, member)

    report = await run(addresses, [Fault(at, crash) for at in spread(FAULTS)])
    # Whether anybody notices depends on the member that the servers speak to.
    assert len(away) == FAULTS
    assert min(away) >= AWAY
    report.mostly_succeeded()


async def test_nothing_is_lost_when_the_leader_is_killed(lab: Lab) -> None:
    cluster, addresses = lab
    replaced: list[bool] = []

    async def crash(_: Ongoing) -> None:
        member = await asyncio.to_thread(cluster.leader)
        member.kill()
        replaced.append(await asyncio.to_thread(cluster.leader) is not member)
        await asyncio.to_thread(cluster.start, member)

    report = await run(addresses, [Fault(at, crash) for at in spread(FAULTS)])
    assert replaced == [True] * FAULTS
    assert report.unknown > 0
    report.mostly_succeeded()


async def test_nothing_is_lost_when_the_leader_stands_still(lab: Lab) -> None:
    cluster, addresses = lab
    replaced: list[bool] = []

    async def pause(_: Ongoing) -> None:
        leader = await asyncio.to_thread(cluster.leader)
        leader.pause()
        try:
            await asyncio.sleep(STILL)
            replaced.append(await asyncio.to_thread(cluster.leader) is not leader)
        finally:
            leader.resume()

    report = await run(addresses, [Fault(at, pause) for at in spread(2)])
    assert replaced == [True, True]
    assert report.unknown > 0
    report.mostly_succeeded()
