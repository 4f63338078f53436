"""The disk is full for a while: nothing is written, nothing is lost, and then it goes on."""

import asyncio
from pathlib import Path

from tests.faults.apiserver import ApiServer
from tests.faults.disk import small_disk
from tests.faults.engines import serving
from tests.faults.history import WRITES, Operation, Outcome
from tests.faults.run import OPERATIONS, Fault, Ongoing, run, spread
from tests.storage.etcd_cluster import EtcdCluster, Member, Place
from tests.storage.postgres_server import PostgresServer

REFUSED = OPERATIONS // 500  # writes that fail before space is made
FEW = 5  # reads that are too few to tell
QUOTA = OPERATIONS * 300  # bytes of etcd, which this many operations exceed more than once


async def outage(ongoing: Ongoing) -> list[Operation]:
    """What is asked while writes fail, which is let last until it tells of reads too."""
    first = len(ongoing.recorder.operations)
    await ongoing.failed(REFUSED)
    while not ongoing.workload.over:
        meanwhile = ongoing.recorder.operations[first:]
        if len(outcomes_of_reads(meanwhile)) > FEW:
            break
        await ongoing.failed(1)
    return ongoing.recorder.operations[first:]


def outcomes_of_reads(operations: list[Operation]) -> list[Outcome]:
    return [op.outcome for op in operations if op.kind not in WRITES]


def reads_go_on(operations: list[Operation]) -> None:
    """While nothing could be written, every read was answered."""
    reads = outcomes_of_reads(operations)
    assert len(reads) > FEW
    assert Outcome.UNKNOWN not in reads


async def test_sqlite_on_a_full_disk_refuses_writes_and_serves_reads_and_watches(
    tmp_path: Path,
) -> None:
    meanwhile: list[Operation] = []
    with small_disk(tmp_path / "disk", megabytes=64) as disk:
        server = ApiServer(
            tmp_path / "api", "--database-url", f"sqlite+aiosqlite:///{disk.folder}/log.sqlite"
        )

        async def fill(ongoing: Ongoing) -> None:
            disk.fill()
            try:
                await ongoing.failed(1)
                meanwhile.extend(await outage(ongoing))
            finally:
                disk.free()

        async with serving(server) as addresses:
            report = await run(addresses, [Fault(at, fill) for at in spread(2)])
    assert server.starts == 1
    assert report.unknown >= 2 * REFUSED
    assert report.breaks == 0, "no watch was cut"
    reads_go_on(meanwhile)
    report.mostly_succeeded()


async def test_postgresql_on_a_full_disk(tmp_path: Path) -> None:
    """It may end where it cannot write its log; then somebody starts it again."""
    with small_disk(tmp_path / "disk", megabytes=256) as disk:
        postgres = await asyncio.to_thread(PostgresServer, disk.folder)
        try:
            server = ApiServer(tmp_path / "api", "--database-url", postgres.url)

            async def fill(ongoing: Ongoing) -> None:
                disk.fill()
                try:
                    await ongoing.failed(REFUSED)
                finally:
                    disk.free()
                if not postgres.running:
                    await asyncio.to_thread(postgres.start)

            async with serving(server) as addresses:
                report = await run(addresses, [Fault(at, fill) for at in spread(2)])
        finally:
            await asyncio.to_thread(postgres.kill)
    assert server.starts == 1
    assert report.unknown >= 2 * REFUSED
    report.mostly_succeeded()


async def test_etcd_out_of_its_quota_refuses_writes_and_serves_reads_and_watches(
    tmp_path: Path,
) -> None:
    meanwhile: list[Operation] = []
    alarms = 0
    cluster = await asyncio.to_thread(
        EtcdCluster, tmp_path, (Place(),), arguments=[f"--quota-backend-bytes={QUOTA}"]
    )
    (member,) = cluster.members
    try:
        server = ApiServer(tmp_path / "api", "--etcd-servers", cluster.endpoints)

        async def relieve(ongoing: Ongoing) -> None:
            """Whenever the alarm is raised, let some writes fail, and make room."""
            nonlocal alarms
            while not ongoing.workload.over:
                await ongoing.failed(1)
                if not await asyncio.to_thread(out_of_space, member):
                    continue
                alarms += 1
                meanwhile.extend(await outage(ongoing))
                await asyncio.to_thread(make_room, member)

        async with serving(server) as addresses:
            report = await run(addresses, [Fault(0, relieve)])
    finally:
        cluster.kill()
    assert alarms > 0
    assert report.unknown >= REFUSED
    assert report.breaks == 0, "no watch was cut"
    reads_go_on(meanwhile)
    report.mostly_succeeded()


def out_of_space(member: Member) -> bool:
    asked = {"action": "GET", "alarm": "NOSPACE"}
    return bool(member.ask("maintenance/alarm", asked).get("alarms"))


def make_room(member: Member) -> None:
    """Forget all but the newest state, give the space back, and end the alarm."""
    revision = member.ask("maintenance/status", {})["header"]["revision"]
    member.ask("kv/compaction", {"revision": revision, "physical": True}, timeout=10)
    member.ask("maintenance/defragment", {}, timeout=10)
    identity = member.ask("maintenance/status", {})["header"]["member_id"]
    lift = {"action": "DEACTIVATE", "memberID": identity, "alarm": "NOSPACE"}
    member.ask("maintenance/alarm", lift)
