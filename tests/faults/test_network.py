"""Cut and healed networks, in namespaces of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.faults.apiserver import ApiServer
from tests.faults.client import Server
from tests.faults.engines import serving
from tests.faults.network import MACHINE, Network, network
from tests.faults.run import Fault, Ongoing, run, spread
from tests.storage.etcd_cluster import EtcdCluster, Place
from tests.storage.postgres_server import PostgresServer

MEMBERS = ("m0", "m1", "m2")
APART = 3.0  # seconds: two elections
Lab = tuple[Network, EtcdCluster, list[Server]]


@pytest.fixture
def net() -> Iterator[Network]:
    with network(*MEMBERS, "api") as made:
        yield made


@pytest.fixture
async def lab(net: Network, tmp_path: Path) -> AsyncIterator[Lab]:
    places = [Place(net.addresses[name], net.netns[name]) for name in MEMBERS]
    cluster = await asyncio.to_thread(EtcdCluster, tmp_path, places)
    try:
        stored = ("--etcd-servers", cluster.endpoints)
        server = ApiServer(tmp_path / "api", *stored, netns=net.netns["api"])
        async with serving(server) as addresses:
            yield net, cluster, addresses
    finally:
        net.heal()
        cluster.kill()


async def test_nothing_is_lost_when_the_leader_is_cut_off(lab: Lab) -> None:
    net, cluster, addresses = lab
    replaced = []

    async def cut(_: Ongoing) -> None:
        leader = await asyncio.to_thread(cluster.leader)
        net.isolate(leader.name)
        try:
            await asyncio.sleep(APART)
            replaced.append(await asyncio.to_thread(cluster.leader) is not leader)
        finally:
            net.heal()

    report = await run(addresses, [Fault(at, cut) for at in spread(2)])
    assert replaced == [True, True]
    assert report.unknown > 0
    report.mostly_succeeded()


async def test_nothing_is_lost_when_the_server_loses_one_member(lab: Lab) -> None:
    """The members still see each other; whichever the server speaks to goes silent in its turn."""
    net, _, addresses = lab
    lost = iter(MEMBERS)

    async def cut(_: Ongoing) -> None:
        net.cut(["api"], [next(lost)])
        await asyncio.sleep(APART)
        net.heal()

    report = await run(addresses, [Fault(at, cut) for at in spread(len(MEMBERS))])
    assert next(lost, None) is None
    assert report.unknown > 0
    report.mostly_succeeded()


async def test_nothing_is_lost_when_postgresql_cannot_be_reached(
    net: Network, tmp_path: Path
) -> None:
    postgres = await asyncio.to_thread(PostgresServer, tmp_path, address=net.addresses[MACHINE])
    try:
        await asyncio.to_thread(admit, postgres, tmp_path, net.addresses["api"])
        server = ApiServer(tmp_path / "api", "--database-url", postgres.url, netns=net.netns["api"])

        async def cut(_: Ongoing) -> None:
            net.cut(["api"], [MACHINE])
            await asyncio.sleep(APART)
            net.heal()

        async with serving(server) as addresses:
            report = await run(addresses, [Fault(at, cut) for at in spread(2)])
        assert report.unknown > 0
        report.mostly_succeeded()
    finally:
        postgres.kill()


def admit(postgres: PostgresServer, folder: Path, address: str) -> None:
    """Made for loopback, it lets nobody else in."""
    postgres.stop()
    with (folder / "postgresql" / "data" / "pg_hba.conf").open("a") as known:
        known.write(f"host all all {address}/32 trust\n")
    postgres.start()
