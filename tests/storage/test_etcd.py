"""What is etcd's alone: TLS, members that go away, the layout of a custom resource."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import trustme

from storage import Store, Unavailable
from storage.connect import connect
from storage.etcd import EtcdStore
from tests.lab.cluster import POLICIES
from tests.lab.processes import Server
from tests.storage.etcd_cluster import EtcdCluster, EtcdServer, Tls

# As kube-apiserver 1.36 stores an object of a CustomResourceDefinition with this group and plural.
OF_KUBERNETES = (
    b'{"apiVersion":"net.alpha.kubernetes.io/v1alpha1","kind":"NetworkPolicy","metadata":{'
    b'"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}\\n"},'
    b'"creationTimestamp":"2026-11-20T10:00:00Z","generation":3,"managedFields":[{"apiVersion":'
    b'"net.alpha.kubernetes.io/v1alpha1","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{".":{},'
    b'"f:podSelector":{}}},"manager":"kubectl-client-side-apply","operation":"Update","time":'
    b'"2026-11-20T10:00:00Z"}],"name":"pol1","namespace":"default","uid":'
    b'"5b1c3f0e-57bb-4f5c-9f0e-2d9c1f7f8a11"},"spec":{"podSelector":{"segment":"backend"}}}\n'
)
KEY = "/net.alpha.kubernetes.io/networkpolicys/default/pol1"


@pytest.fixture
def pki(tmp_path: Path) -> Tls:
    """A CA, and a certificate that both sides show."""
    ca = trustme.CA()
    shown = ca.issue_cert("127.0.0.1", "localhost")
    files = Tls(*(tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem")))
    ca.cert_pem.write_to_path(files.ca)
    shown.private_key_pem.write_to_path(files.key)
    for certificate in shown.cert_chain_pems:
        certificate.write_to_path(files.cert, append=True)
    return files


@pytest.fixture
def secured(pki: Tls, tmp_path: Path) -> Iterator[EtcdCluster]:
    cluster = EtcdCluster(tmp_path, tls=pki)
    yield cluster
    cluster.kill()


async def test_it_speaks_tls_and_shows_a_certificate(secured: EtcdCluster, pki: Tls) -> None:
    servers = secured.endpoints.split(",")
    store = await connect(
        etcd_servers=servers, etcd_cafile=pki.ca, etcd_certfile=pki.cert, etcd_keyfile=pki.key
    )
    revision = await store.create("/a", b"1")
    watch = store.watch("/", after=revision - 1)
    async with asyncio.timeout(5):
        while not (batch := await anext(watch)).events:
            pass
    assert batch.events[0].revision == revision
    await watch.aclose()
    await store.close()
    stranger = trustme.CA()
    stranger.cert_pem.write_to_path(pki.ca.with_name("other.pem"))
    for trusted in (pki.ca.with_name("other.pem"), pki.ca):
        # One does not trust the members, the other shows no certificate.
        refused = await connect(etcd_servers=servers, etcd_cafile=trusted)
        with pytest.raises(Unavailable):
            await refused.create("/b", b"1")
        await refused.close()


async def test_a_server_is_told_of_tls_by_flags(
    secured: EtcdCluster, pki: Tls, tmp_path: Path
) -> None:
    server = Server(
        tmp_path,
        *("--etcd-servers", secured.endpoints, "--etcd-cafile", str(pki.ca)),
        *("--etcd-certfile", str(pki.cert), "--etcd-keyfile", str(pki.key)),
    )
    try:
        await server.start()
    finally:
        await server.stop()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[tuple[EtcdCluster, Store]]:
    made = EtcdCluster(tmp_path)
    store = await connect(etcd_servers=made.endpoints.split(","))
    yield made, store
    await store.close()
    made.kill()


async def test_it_reads_writes_and_watches_over_the_loss_of_any_member(
    cluster: tuple[EtcdCluster, Store],
) -> None:
    members, store = cluster
    start = await store.revision()
    seen: list[int] = []

    async def follow() -> None:
        async for batch in store.watch("/a/", after=start):
            seen.extend(event.revision for event in batch.events)

    following = asyncio.create_task(follow())
    written = []
    for turn, member in enumerate(members.members):
        written.append(await store.create(f"/a/{turn}-before", b"1"))
        member.kill()
        # A write to the member that has just gone may have an unknown outcome; a read never has.
        assert (await store.list("/a/")).records
        for attempt in range(20):
            try:
                written.append(await store.create(f"/a/{turn}-{attempt}", b"1"))
                break
            except Unavailable:
                continue
        await asyncio.to_thread(members.start, member)
    kept = {record.revision for record in (await store.list("/a/")).records}
    assert set(written) <= kept
    async with asyncio.timeout(15):
        while len(seen) < len(kept):
            await asyncio.sleep(0.02)
    assert seen == sorted(kept)
    following.cancel()


async def test_without_a_quorum_it_says_so_in_time(cluster: tuple[EtcdCluster, Store]) -> None:
    members, store = cluster
    revision = await store.create("/a", b"1")
    for member in members.members[:2]:
        member.kill()
    async with asyncio.timeout(30):
        with pytest.raises(Unavailable):
            await store.revision()
        with pytest.raises(Unavailable):
            await store.update("/a", b"2", expected=revision)
    await asyncio.to_thread(members.start_all)
    assert await store.revision() >= revision


async def test_S01_a_custom_resource_is_taken_over_in_place(tmp_path: Path) -> None:
    etcd = EtcdServer(tmp_path)
    direct = EtcdStore(endpoints=[etcd.endpoint])
    stored = await direct.create("/registry" + KEY, OF_KUBERNETES)
    server = Server(tmp_path, "--etcd-servers", etcd.endpoint)
    try:
        await server.start()
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            url = f"{POLICIES}/namespaces/default/networkpolicys/pol1"
            got = (await http.get(url)).json()
            expected = json.loads(OF_KUBERNETES)
            expected["metadata"]["resourceVersion"] = str(stored)
            assert got == expected
            listed = (await http.get(f"{POLICIES}/networkpolicys")).json()
            assert listed["items"] == [expected]
            changed = await http.patch(
                url,
                json={"metadata": {"labels": {"moved": "yes"}}},
                headers={"Content-Type": "application/merge-patch+json"},
            )
            assert changed.status_code == 200, changed.text
            made = await http.post(
                f"{POLICIES}/namespaces/default/networkpolicys",
                json={"kind": "NetworkPolicy", "metadata": {"name": "pol2"}, "spec": {}},
            )
            assert made.status_code == 201
        # What is written is what kube-apiserver would read: its keys, its order, no version inside.
        for name, told in (("pol1", changed.json()), ("pol2", made.json())):
            record, _ = await direct.get(f"/registry{KEY[:-4]}{name}")
            assert record is not None
            assert record.value.startswith(
                b'{"apiVersion":"net.alpha.kubernetes.io/v1alpha1","kind":"NetworkPolicy",'
                b'"metadata":{'
            )
            del told["metadata"]["resourceVersion"]
            assert json.loads(record.value) == told
    finally:
        await server.stop()
        await direct.close()
        etcd.kill()


@pytest.mark.parametrize("prefix", ["kubernetes.io", "/kubernetes.io/", "/deep/er"])
async def test_a_prefix_means_what_it_means_to_kube_apiserver(
    etcd: EtcdCluster, prefix: str
) -> None:
    servers = etcd.endpoints.split(",")
    store = EtcdStore(endpoints=servers, prefix=prefix)
    direct = EtcdStore(endpoints=servers)
    revision = await store.create(KEY, prefix.encode())
    record, _ = await direct.get("/" + prefix.strip("/") + KEY)
    assert record is not None
    assert (record.value, record.revision) == (prefix.encode(), revision)
    await direct.delete(record.key, expected=revision)
    for opened in (store, direct):
        await opened.close()
