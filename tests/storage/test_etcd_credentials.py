"""Another certificate for etcd while the store is in use: nobody who uses it notices."""

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import trustme

from apiserver import files
from storage import StorageError, Store, Unavailable
from storage.etcd import EtcdStore
from tests.lab.cluster import POLICIES
from tests.lab.processes import Server
from tests.storage.etcd_cluster import EtcdCluster, Place, Tls


class Pki:
    """`servers` signs what members show; who signs what clients show is in their `ca.pem`."""

    def __init__(self, folder: Path) -> None:
        self.servers = trustme.CA()
        self.old, self.new = trustme.CA(), trustme.CA()
        self.members = Tls(*(folder / f"member-{name}.pem" for name in ("ca", "cert", "key")))
        _write(self.servers.issue_cert("127.0.0.1"), self.members.cert, self.members.key)
        self.ca, self.cert, self.key = (folder / f"{name}.pem" for name in ("ca", "cert", "key"))
        self.servers.cert_pem.write_to_path(self.ca)

    def trusting(self, *clients: trustme.CA) -> None:
        """What members believe from their next start on."""
        self.members.ca.unlink(missing_ok=True)
        for authority in (self.servers, *clients):
            authority.cert_pem.write_to_path(self.members.ca, append=True)

    def show(self, authority: trustme.CA, *, seconds: float = 3600.0) -> None:
        """What clients show from now on, for so long."""
        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
        _write(authority.issue_cert("client", not_after=end), self.cert, self.key)

    def store(self, cluster: EtcdCluster) -> EtcdStore:
        endpoints = cluster.endpoints.split(",")
        return EtcdStore(endpoints=endpoints, cafile=self.ca, certfile=self.cert, keyfile=self.key)


def _write(made: trustme.LeafCert, cert: Path, key: Path) -> None:
    made.private_key_pem.write_to_path(key)
    cert.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@contextlib.contextmanager
def running(folder: Path, pki: Pki, members: int = 1) -> Iterator[EtcdCluster]:
    cluster = EtcdCluster(folder, (Place(),) * members, tls=pki.members)
    try:
        yield cluster
    finally:
        cluster.kill()


@dataclass
class Use:
    """Writers, readers and watches of a store, and what they met."""

    store: Store
    written: set[int] = field(default_factory=set)
    failed_writes: list[Unavailable] = field(default_factory=list)
    failed_reads: list[Unavailable] = field(default_factory=list)
    seen: list[list[int]] = field(default_factory=lambda: [[], []])

    @contextlib.asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._write(name)) for name in ("a", "b", "c")]
        tasks.append(asyncio.create_task(self._read()))
        watches = [asyncio.create_task(self._watch(seen)) for seen in self.seen]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        last = await self.store.create("/last", b"1")
        async with asyncio.timeout(20):
            while any(seen[-1:] != [last] for seen in self.seen):
                await asyncio.sleep(0.01)
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)

    async def progress(self, *, by: int = 50) -> None:
        wanted = len(self.written) + by
        async with asyncio.timeout(20):
            while len(self.written) < wanted:
                await asyncio.sleep(0.01)

    def check(self) -> None:
        """Every watch has told all that was written, in order and once."""
        for seen in self.seen:
            assert seen == sorted(set(seen))
            assert self.written <= set(seen)

    async def _write(self, name: str) -> None:
        number = 0
        while True:
            number += 1
            try:
                self.written.add(await self.store.create(f"/{name}/{number}", b"1"))
            except Unavailable as error:
                self.failed_writes.append(error)
            await asyncio.sleep(0.002)

    async def _read(self) -> None:
        while True:
            try:
                await self.store.get("/a/1")
            except Unavailable as error:
                self.failed_reads.append(error)
            await asyncio.sleep(0.002)

    async def _watch(self, seen: list[int]) -> None:
        async for batch in self.store.watch("/", after=0):
            seen += [event.revision for event in batch.events]


def connections(cluster: EtcdCluster) -> int:
    """How many of this machine's are open to the members."""
    ports = {int(endpoint.rpartition(":")[2]) for endpoint in cluster.endpoints.split(",")}
    lines = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    found = [line.split()[2:4] for line in lines]
    return sum(state == "01" and int(peer[-4:], 16) in ports for peer, state in found)


async def test_a_certificate_that_expires_is_replaced_and_nobody_notices(
    pki: Pki, tmp_path: Path
) -> None:
    pki.trusting(pki.old, pki.new)
    pki.show(pki.old, seconds=6)
    with running(tmp_path, pki, members=3) as cluster:
        store = pki.store(cluster)
        use = Use(store)
        following = asyncio.create_task(
            files.follow(store.files, store.renew, what="client certificate for the store")
        )
        async with use.going_on():
            await use.progress()
            before, streams = connections(cluster), store.counted()["watch_streams"]
            pki.show(pki.new)
            async with asyncio.timeout(20):
                while store.counted()["watch_streams"] < streams + 2:
                    await asyncio.sleep(0.01)
            await use.progress()
            async with asyncio.timeout(20):  # the other two members were asked once
                while connections(cluster) > before + 2:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(3)
            await use.progress()
        assert (use.failed_writes, use.failed_reads) == ([], [])
        use.check()
        # The old one has expired, and is not believed any more in any case.
        pki.trusting(pki.new)
        for member in cluster.members:
            member.kill()
        await asyncio.to_thread(cluster.start_all)
        assert await store.create("/after", b"1") > 0
        following.cancel()
        await store.close()


async def test_the_authority_is_replaced_with_a_restart_of_the_member(
    pki: Pki, tmp_path: Path
) -> None:
    pki.trusting(pki.old)
    pki.show(pki.old)
    with running(tmp_path, pki) as cluster:
        store = pki.store(cluster)
        use = Use(store)
        async with use.going_on():
            await use.progress()
            pki.show(pki.new)
            store.renew()  # which the member does not take yet
            await asyncio.sleep(2)
            await use.progress()
            assert (use.failed_writes, use.failed_reads) == ([], [])
            pki.trusting(pki.new)
            (member,) = cluster.members
            member.kill()
            await asyncio.to_thread(cluster.start, member)
            await use.progress()
        # A write that was under way when the member was killed may have had an effect.
        assert len(use.failed_writes) <= 3
        assert use.failed_reads == []
        use.check()
        await store.close()


async def test_what_is_no_pair_or_no_authority_leaves_all_as_it_is(
    pki: Pki, tmp_path: Path
) -> None:
    pki.trusting(pki.old)
    pki.show(pki.old)
    with running(tmp_path, pki) as cluster:
        store = pki.store(cluster)
        good = pki.key.read_bytes()
        pki.show(pki.old)
        pki.key.write_bytes(good)
        with pytest.raises(ValueError, match=r"cert\.pem, .*key\.pem: .*mismatch"):
            store.renew()
        with pytest.raises(StorageError, match="mismatch"):
            pki.store(cluster)
        pki.show(pki.old)
        pki.ca.write_text("nothing")
        with pytest.raises(ValueError, match=r"ca\.pem: "):
            store.renew()
        pki.ca.unlink()
        with pytest.raises(FileNotFoundError):
            store.renew()
        assert await store.create("/a", b"1") > 0
        await store.close()


async def test_a_server_goes_over_to_new_files_by_itself(pki: Pki, tmp_path: Path) -> None:
    pki.trusting(pki.old, pki.new)
    pki.show(pki.old)
    path = f"{POLICIES}/namespaces/default/networkpolicys"
    with running(tmp_path, pki) as cluster:
        tls = ("--etcd-cafile", pki.ca, "--etcd-certfile", pki.cert, "--etcd-keyfile", pki.key)
        server = Server(tmp_path, "--etcd-servers", cluster.endpoints, *map(str, tls))
        await server.start()
        made: list[str] = []
        told: list[str] = []

        async def write(http: httpx.AsyncClient) -> None:
            while True:
                name = f"p-{len(made)}"
                answer = await http.post(path, json={"metadata": {"name": name}, "spec": {}})
                assert answer.status_code == 201, answer.text
                made.append(name)

        async def watch(http: httpx.AsyncClient) -> None:
            async with http.stream("GET", path, params={"watch": "1"}) as events:
                async for line in events.aiter_lines():
                    assert '"ADDED"' in line
                    told.append(line.partition('"name":"')[2].partition('"')[0])

        try:
            async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20) as http:
                watching = asyncio.create_task(watch(http))
                writing = asyncio.create_task(write(http))
                await asyncio.sleep(0.5)
                good = pki.key.read_bytes()
                pki.show(pki.new)
                wanted = pki.key.read_bytes()
                pki.key.write_bytes(good)
                await server.until(
                    "client certificate for the store cannot be read; what was before stays"
                )
                pki.key.write_bytes(wanted)
                await server.until("a member of etcd has taken the new certificate")
                await asyncio.sleep(0.5)
                assert not writing.done()
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)
                answer = await http.post(path, json={"metadata": {"name": "last"}, "spec": {}})
                assert answer.status_code == 201
                async with asyncio.timeout(10):
                    while told[-1:] != ["last"]:
                        await asyncio.sleep(0.01)
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
                # What was under way when its writer was cancelled may be there as well.
                assert told[: len(made)] == made
                assert len(told) <= len(made) + 2
                pki.trusting(pki.new)
                (member,) = cluster.members
                member.kill()
                await asyncio.to_thread(cluster.start, member)
                assert (await http.get(f"{path}/last")).status_code == 200
        finally:
            await server.stop()
