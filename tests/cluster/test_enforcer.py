"""The enforcer as a service account of a cluster that goes away, rotates and refuses.

It is a process of its own and programs a network namespace of the test. What it is told comes from
the stand-in: namespaces and pods from itself, policies from the servers behind it.
"""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trustme

from tests.cluster.conftest import World as Cluster
from tests.cluster.conftest import started
from tests.lab.agents import Agents, Probe
from tests.lab.cluster import NODE_NAME, Api, PodSpec, expected
from tests.lab.processes import Daemon
from tests.lab.world import NODE, World, world
from tests.storage.etcd_cluster import EtcdServer

AWAY = {"nodeName": "node-2"}
PODS = (
    PodSpec("team-a", "back", {"role": "back"}, ("10.66.0.11", "fd66::11")),
    PodSpec("team-a", "front", {"role": "front"}, ("10.66.0.12", "fd66::12"), fields=AWAY),
    PodSpec("team-a", "far", {"role": "back"}, ("10.66.0.13", "fd66::13"), fields=AWAY),
    PodSpec("team-b", "other", {"role": "front"}, ("10.66.0.14", "fd66::14")),
)
AGENT = PodSpec("team-a", "agent", {"role": "back"}, NODE, fields={"hostNetwork": True})
BACK, FRONT, FAR, OTHER = PODS
RESOURCES = ("namespaces", "pods", "networkpolicys")
OPEN = {"podSelector": {"role": "back"}, "allowIncoming": {"from": [{"pods": {"role": "front"}}]}}


@dataclass
class Lab:
    """What a test needs."""

    cluster: Cluster
    world: World
    folder: Path
    api: Api
    http: httpx.AsyncClient
    process: Daemon
    config: Path

    def account(self, token: str, *resources: str) -> None:
        """The token that the cluster takes, and what its user may follow."""
        told = json.dumps({"token": token, "resources": resources})
        (self.cluster.place.folder / "enforcer.json").write_text(told)

    def hand_out(self, token: str) -> None:
        """Write the token down where the enforcer reads it, as the kubelet does."""
        fresh = self.folder / "fresh"
        fresh.write_text(token)
        fresh.rename(self.folder / "token")

    async def stop_cluster(self) -> None:
        assert self.cluster.place.standin is not None
        await self.cluster.place.standin.kill()

    async def start_cluster(self) -> None:
        await self.cluster.place.start(*(replica.url for replica in self.cluster.replicas))
        await self.cluster.place.until_available(*self.cluster.replicas)

    async def end_watches(self) -> None:
        await self.cluster.place.control("end-watches")

    async def ruleset(self) -> str:
        """The kernel's in a fixed order, without counters and what packets add to it."""
        # Without an owner the flags read otherwise.
        text = re.sub(r"(?m) # progname \w+$|^\tflags .*\n", "", await self._nft())
        parts = re.split(r"(?m)^\t}\n", text)
        return "".join(
            sorted(part for part in parts if not re.match(r"\s*set (denied|wouldbe)", part))
        )

    async def until(self, holds: Callable[[str], bool]) -> str:
        async with asyncio.timeout(25):
            while not holds(found := await self.ruleset()):
                await asyncio.sleep(0.05)
        return found

    async def label(self, value: str) -> None:
        """A change of a peer: it goes through the pods and nothing else."""
        await self.api.label("team-a", "front", {"role": value})

    async def follows(self) -> None:
        """A pod and a policy that come now get into the kernel, and go again."""
        await self.label("none")
        await self.until(lambda text: FRONT.ips[0] not in text)
        await self.label("front")
        await self.until(lambda text: FRONT.ips[0] in text)
        wide = {**OPEN, "allowIncoming": {"toPorts": [{"port": 4242}]}}
        await self.api.policy("team-a", "wide", wide)
        await self.until(lambda text: "tcp . 4242" in text)
        await self.api.drop_policy("team-a", "wide")
        await self.until(lambda text: "tcp . 4242" not in text)

    async def said(self, event: str, *words: str) -> None:
        """Wait for a line of the log that has all these words."""
        async with asyncio.timeout(25):
            while not any(
                all(word in json.dumps(line) for word in words)
                for line in self.process.events(event)
            ):
                assert self.process.running, self.process.log.read_text()[-3000:]
                await asyncio.sleep(0.05)

    async def _nft(self) -> str:
        where = ("ip", "netns", "exec", self.world.node.netns)
        process = await asyncio.create_subprocess_exec(
            *where, "nft", "--stateless", "list", "ruleset", stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        return output.decode()


def kubeconfig(lab_folder: Path, name: str, server: str, authority: Path) -> Path:
    config = {
        "kind": "Config",
        "current-context": "there",
        "contexts": [{"name": "there", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [
            {"name": "c", "cluster": {"server": server, "certificate-authority": str(authority)}}
        ],
        "users": [{"name": "u", "user": {"tokenFile": "token"}}],
    }
    path = lab_folder / name
    path.write_text(json.dumps(config))
    return path


# No canary, whose pods would be in what the tests compare; nothing served, nothing saved.
ALONE = ("--canary", "off", "--metrics-bind-address", "0", "--state-dir", "")


@pytest.fixture(scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory, own_etcd: EtcdServer) -> AsyncIterator[Lab]:
    folder = tmp_path_factory.mktemp("enforcer")
    with world({pod.host: pod.ips for pod in PODS}) as made:
        async for cluster in started(tmp_path_factory.mktemp("cluster"), own_etcd):
            place = cluster.place
            config = kubeconfig(folder, "config", place.url, place.folder / "cluster-ca.pem")
            arguments = ["--kubeconfig", str(config), "--node-name", NODE_NAME, *ALONE]
            process = Daemon(
                "enforcer.main", [*arguments, "--netns", made.node.netns], folder / "enforcer.log"
            )
            async with place.as_user("admin-token") as http:
                found = Lab(cluster, made, folder, Api(http), http, process, config)
                found.account("first", *RESOURCES)
                found.hand_out("first")
                await found.api.namespace("team-b")
                for pod in (*PODS, AGENT):
                    await found.api.pod(pod)
                await found.api.isolate("team-a", "on")
                await found.api.policy("team-a", "open", OPEN)
                try:
                    await process.start()
                    await process.until("enforcing")
                    yield found
                finally:
                    await process.kill()


async def test_pods_of_the_node_are_protected(lab: Lab) -> None:
    """Those of other nodes are peers only, and a pod in the host's network is neither."""
    await lab.said("there is no ruleset yet: traffic passes until everything has been listed")
    text = await lab.ruleset()
    targets = re.findall(r"([0-9a-f.:]+) : (accept|jump c_)", text)
    assert set(targets) == {
        *((ip, "jump c_") for ip in BACK.ips),
        *((ip, "accept") for ip in OTHER.ips),
    }
    assert set(FRONT.ips) <= set(re.findall(r"[0-9a-f.:]+", text))
    assert not set(NODE) & set(re.findall(r"[0-9a-f.:]+", text))


async def test_packets_meet_the_same_while_the_cluster_is_away(lab: Lab) -> None:
    """What happens meanwhile is heard afterwards."""
    before = await lab.ruleset()
    commits = len(lab.process.events("committed"))
    hosts = [lab.world.node, *lab.world.hosts.values()]
    async with Agents(hosts, ports=(80,)) as agents:
        sources = ("front", "far", "other", "outside", "node")
        probes = [Probe(who, ip, "tcp", 80) for who in sources for ip in BACK.ips]
        want = expected(lab.world, await lab.api.cluster(), probes)
        assert set(want.values()) == {True, False}
        # Somebody else's pod: its own node refuses that, this one passes it on.
        want[Probe("other", FAR.ips[0], "tcp", 80)] = True
        assert await agents.probe(want) == want
        await lab.stop_cluster()
        assert await agents.probe(want) == want
    root = lab.cluster.place.certificates.user("root", "system:masters")
    async with lab.cluster.place.client(lab.cluster.replica, root) as master:
        wide = {"allowIncoming": {"toPorts": [{"port": 4243}]}}
        await Api(master).policy("team-a", "meanwhile", wide)
    for path in ("/api/v1/namespaces", "/api/v1/pods", "networkpolicys"):
        await lab.said("request failed", path, "the ruleset stays as it is")
    assert await lab.ruleset() == before
    assert len(lab.process.events("committed")) == commits
    await lab.start_cluster()
    await lab.until(lambda text: "tcp . 4243" in text)
    await lab.said("following again", "/api/v1/pods")
    await lab.api.drop_policy("team-a", "meanwhile")
    assert await lab.until(lambda text: "tcp . 4243" not in text) == before


async def test_a_start_without_the_cluster_keeps_what_the_kernel_holds(lab: Lab) -> None:
    before = await lab.ruleset()
    await lab.stop_cluster()
    await lab.process.stop()
    assert await lab.ruleset() == before
    await lab.process.start()
    await lab.said("the ruleset in the kernel stays until everything has been listed")
    await lab.said("request failed", "/api/v1/pods")
    assert await lab.ruleset() == before
    await lab.start_cluster()
    await lab.process.until("enforcing")
    assert lab.process.events("committed") == []
    assert await lab.ruleset() == before
    await lab.follows()


async def test_every_server_of_the_policies_dies(lab: Lab) -> None:
    before = await lab.ruleset()
    replicas = lab.cluster.replicas
    await asyncio.gather(*(replica.kill() for replica in replicas))
    await lab.said("request failed", "networkpolicys", "503", "look at kubectl get apiservices")
    assert await lab.ruleset() == before
    await asyncio.gather(*(replica.start() for replica in replicas))
    # The stand-in may not have seen yet that they were gone.
    await asyncio.gather(*(replica.until_ready() for replica in replicas))
    await lab.cluster.place.until_available(*replicas)
    await lab.follows()
    assert await lab.ruleset() == before


async def test_a_token_that_has_expired_is_read_again(lab: Lab) -> None:
    before = await lab.ruleset()
    lab.account("second", *RESOURCES)
    await lab.end_watches()
    for path in ("/api/v1/namespaces", "/api/v1/pods"):
        await lab.said("request failed", path, "401: Unauthorized", str(lab.config))
    assert await lab.ruleset() == before
    lab.hand_out("second")
    await lab.follows()
    assert await lab.ruleset() == before


async def test_a_missing_permission_is_named(lab: Lab) -> None:
    before = await lab.ruleset()
    lab.account("second", "namespaces", "networkpolicys")
    await lab.end_watches()
    await lab.said(
        "request failed", "403: ", "ClusterRole with verbs list and watch", "on resource pods of"
    )
    assert await lab.ruleset() == before
    lab.account("second", *RESOURCES)
    await lab.follows()


async def test_the_cluster_gets_another_authority(lab: Lab) -> None:
    before = await lab.ruleset()
    place = lab.cluster.place
    await lab.stop_cluster()
    place.certificates.cluster = trustme.CA()
    own = place.certificates.cluster.issue_cert("127.0.0.1", "localhost")
    own.private_key_and_cert_chain_pem.write_to_path(place.folder / "cluster.pem")
    old = (place.folder / "cluster-ca.pem").read_bytes()
    fresh = place.certificates.cluster.cert_pem.bytes()
    # The enforcer's copy of the authority comes later than the new certificate.
    kubeconfig(lab.folder, "config", place.url, lab.folder / "ca")
    (lab.folder / "ca").write_bytes(old)
    (place.folder / "cluster-ca.pem").write_bytes(fresh)
    await place.start(*(replica.url for replica in lab.cluster.replicas))
    await lab.said("request failed", "/api/v1/pods", "CERTIFICATE_VERIFY_FAILED")
    assert await lab.ruleset() == before
    (lab.folder / "ca").write_bytes(fresh)
    async with place.as_user("admin-token") as http:
        lab.api = Api(http)
        await place.until_available(*lab.cluster.replicas)
        await lab.follows()


async def test_policies_straight_from_their_server(lab: Lab) -> None:
    """As a service account in a pod; the files of a pod stand in a /run of its own."""
    place = lab.cluster.place
    (lab.folder / "ca.crt").write_bytes((place.folder / "cluster-ca.pem").read_bytes())
    serving = place.folder / "serving-ca.pem"
    straight = kubeconfig(lab.folder, "straight", lab.cluster.replica.url, serving)
    mounted = (
        "mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io"
        f" && ln -s {lab.folder} /run/secrets/kubernetes.io/serviceaccount"
        f" && exec env KUBERNETES_SERVICE_HOST=127.0.0.1 KUBERNETES_SERVICE_PORT={place.port}"
        f" NODE_NAME={NODE_NAME} {sys.executable} -m enforcer.main render"
        f" --policy-kubeconfig {straight}"
    )
    # The server may not have read the cluster's new authority yet, and then it knows no token.
    async with asyncio.timeout(25):
        while True:
            process = await asyncio.create_subprocess_exec(
                *("unshare", "--mount", "sh", "-c", mounted),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            output, errors = await process.communicate()
            if process.returncode == 0:
                break
            assert b"401: Unauthorized" in errors
            await asyncio.sleep(1)
    text = output.decode()
    assert f"{BACK.ips[0]} : jump c_" in text
    assert f"{FAR.ips[0]} :" not in text
    assert f"{FRONT.ips[0]}" in text
