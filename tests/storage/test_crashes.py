"""What is left after a crash: of the process with SQLite, of the etcd server."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from storage import Event, StorageError, Unavailable
from storage.connect import connect
from tests.storage.etcd_cluster import EtcdCluster, EtcdServer

WRITER = """
import asyncio, sys
from storage.connect import connect
async def main():
    store = await connect(database_url=sys.argv[1])
    async def write(worker):
        for n in range(100000):
            print(await store.create(f"/{worker}/{n}", b"x" * 200), flush=True)
    await asyncio.gather(*(write(worker) for worker in range(4)))
asyncio.run(main())
"""


async def test_sqlite_keeps_what_it_acknowledged_through_kill_9(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/log.sqlite"
    highest = 0
    for attempt in range(3):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER.replace("/{worker}", f"/{attempt}-{{worker}}"), url,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        acknowledged = [int(await process.stdout.readline()) for _ in range(50 + 37 * attempt)]
        process.send_signal(signal.SIGKILL)
        rest = (await process.stdout.read()).split(b"\n")
        acknowledged += [int(line) for line in rest[:-1]]
        await process.wait()
        store = await connect(database_url=url)
        kept = {record.revision for record in (await store.list("/")).records}
        assert set(acknowledged) <= kept
        assert await store.revision() >= max(acknowledged) > highest
        highest = await store.revision()
        await store.close()


async def test_a_second_process_on_one_file_is_refused(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/log.sqlite"
    store = await connect(database_url=url)
    with pytest.raises(StorageError, match="in use by another process"):
        await connect(database_url=url)
    await store.close()
    await (await connect(database_url=url)).close()


async def test_a_url_that_names_no_engine_is_refused() -> None:
    with pytest.raises(StorageError, match="no engine for 'mysql://x'"):
        await connect(database_url="mysql://x")


async def test_an_etcd_watch_goes_on_after_the_server_was_killed(tmp_path: Path) -> None:
    server = EtcdServer(tmp_path)
    try:
        store = await connect(etcd_servers=[server.endpoint])
        start = await store.revision()
        seen: list[Event] = []

        async def follow() -> None:
            async for batch in store.watch("/a/", after=start):
                seen.extend(batch.events)
                if len(seen) >= 20:
                    return

        task = asyncio.create_task(follow())
        revisions = [await store.create(f"/a/{n}", b"1") for n in range(10)]
        server.kill()
        with pytest.raises(Unavailable):
            await store.create("/a/lost", b"1")
        await asyncio.to_thread(server.start)
        while True:
            try:
                await store.revision()
                break
            except Unavailable:
                await asyncio.sleep(0.05)
        revisions += [await store.create(f"/a/{n}", b"1") for n in range(10, 20)]
        async with asyncio.timeout(10):
            await task
        assert [event.revision for event in seen] == revisions
        await store.close()
    finally:
        server.kill()


async def test_etcd_requests_go_on_to_the_next_endpoint(etcd: EtcdCluster) -> None:
    store = await connect(
        etcd_servers=["http://127.0.0.1:1", *etcd.endpoints.split(",")], etcd_prefix="/failover"
    )
    revision = await store.create("/a", b"1")
    record, _ = await store.get("/a")
    assert record is not None
    assert record.revision == revision
    await store.close()
