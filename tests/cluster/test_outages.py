"""The cluster or the store goes away for a while: nothing opens, nothing needs a restart."""

import asyncio
import time
from pathlib import Path

import httpx

from tests.cluster.conftest import POLICIES, Place, Replica, World, policy
from tests.storage.etcd_cluster import EtcdServer


async def until(replica: Replica, place: Place, code: int, *, seconds: float = 40.0) -> str:
    """Wait until the server is ready (200) or not (500); what it says then."""
    deadline = time.monotonic() + seconds
    async with place.client(replica) as http:
        while True:
            answer = await http.get("/readyz", params={"verbose": ""})
            if answer.status_code == code:
                return answer.text
            assert time.monotonic() < deadline, answer.text
            await asyncio.sleep(0.1)


async def test_the_cluster_is_away(fragile: World) -> None:
    place, replica = fragile.place, fragile.replica
    root = place.certificates.user("root", "system:masters")
    async with place.client(replica, root) as master, place.client(replica) as nobody:
        assert (await master.post(POLICIES, json=policy("before"))).status_code == 201
        assert place.standin is not None
        place.standin.pause()  # it takes connections, and never answers
        # More questions than can be asked, from nobody: probes are answered all the same.
        flood = [asyncio.create_task(nobody.get(f"/nothing-{number}")) for number in range(150)]
        await asyncio.sleep(0.5)
        assert (await master.get("/readyz/ping")).status_code == 200
        async with place.client(replica) as probe:
            assert (await probe.get("/livez")).status_code == 200
        # Who needs no cluster to be known and to be let in goes on, and so do probes.
        assert (await master.get(f"{POLICIES}/before")).status_code == 200
        assert (await master.post(POLICIES, json=policy("meanwhile"))).status_code == 201
        assert (await nobody.get("/livez")).status_code == 200
        unknown = place.client(replica, token="editor-token")
        known = place.client(replica, place.certificates.user("editor"))
        async with unknown, known:
            answers = await asyncio.gather(
                unknown.get(POLICIES), known.get(POLICIES), nobody.get(POLICIES)
            )
        assert [answer.status_code for answer in answers] == [401, 503, 503]
        assert "cannot be asked whether this is allowed" in answers[1].json()["message"]
        assert answers[1].headers["retry-after"] == "1"
        assert {answer.status_code for answer in await asyncio.gather(*flood)} == {503}
        place.standin.resume()
        await place.standin.kill()
        assert "[-]cluster failed" in await until(replica, place, 500)
        await place.start(*(each.url for each in fragile.replicas))
        await until(replica, place, 200)
        async with place.client(replica, token="editor-token") as http:
            async with asyncio.timeout(20):
                while (await http.get(POLICIES)).status_code != 200:
                    await asyncio.sleep(0.1)
        await master.delete(POLICIES)


async def test_AN03_a_start_without_the_cluster(tmp_path: Path, own_etcd: EtcdServer) -> None:
    place = Place(tmp_path)
    replica = Replica(place, "alone", "--etcd-servers", own_etcd.endpoint)
    try:
        await replica.start()
        told = await _first_answer(replica, place)
        assert "[-]authentication failed" in told
        assert "[-]namespaces failed" in told
        async with asyncio.timeout(10):
            while "lacks a RoleBinding in kube-system" not in replica.log.read_text():
                await asyncio.sleep(0.1)
        await place.start(replica.url)
        await until(replica, place, 200)
        await place.until_available(replica)
    finally:
        for process in (replica, place.standin):
            if process is not None and process.running:
                await process.kill()


async def _first_answer(replica: Replica, place: Place) -> str:
    async with place.client(replica) as http, asyncio.timeout(20):
        while True:
            try:
                return (await http.get("/readyz")).text
            except httpx.TransportError:
                await asyncio.sleep(0.05)


async def test_the_store_is_away(tmp_path: Path) -> None:
    etcd = EtcdServer(tmp_path)
    place = Place(tmp_path)
    replica = Replica(place, "one", "--etcd-servers", etcd.endpoint)
    try:
        await place.start(replica.url)
        await replica.start()
        await replica.until_ready()
        root = place.certificates.user("root", "system:masters")
        async with place.client(replica, root) as http:
            etcd.member.pause()
            assert "[-]etcd failed" in await until(replica, place, 500)
            answer = await http.post(POLICIES, json=policy("a"))
            assert answer.status_code in (503, 504), answer.text
            # What the aggregator looks at does not need the store.
            assert (await http.get("/apis/net.alpha.kubernetes.io/v1alpha1")).status_code == 200
            etcd.member.resume()
            await until(replica, place, 200)
            assert (await http.post(POLICIES, json=policy("b"))).status_code == 201
    finally:
        for process in (replica, place.standin):
            if process is not None and process.running:
                await process.kill()
        etcd.kill()


async def test_what_admits_can_no_longer_be_followed(fragile: World) -> None:
    missing = fragile.place.folder / "without-validatingwebhookconfigurations"
    missing.touch()
    await fragile.place.control("end-watches")
    assert "[-]admission failed" in await until(fragile.replica, fragile.place, 500)
    missing.unlink()
    assert "[+]admission ok" in await until(fragile.replica, fragile.place, 200)
