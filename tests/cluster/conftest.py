"""A cluster of the stand-in and two servers over one etcd, with certificates of their own."""

import asyncio
import itertools
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tests.lab.processes import Daemon, free_port
from tests.lab.standin import SERVICE
from tests.storage.etcd_cluster import EtcdServer

ROOT = "/apis/net.alpha.kubernetes.io/v1alpha1"
POLICIES = f"{ROOT}/namespaces/team-a/networkpolicys"


@dataclass
class Certificates:
    """The authorities, and the files that the processes read."""

    folder: Path
    cluster: trustme.CA = field(default_factory=trustme.CA)
    serving: trustme.CA = field(default_factory=trustme.CA)
    clients: trustme.CA = field(default_factory=trustme.CA)
    proxy: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        for name in ("cluster", "serving", "client", "proxy"):
            authority = getattr(self, "clients" if name == "client" else name)
            authority.cert_pem.write_to_path(self.folder / f"{name}-ca.pem")
        own = self.cluster.issue_cert("127.0.0.1", "localhost")
        own.private_key_and_cert_chain_pem.write_to_path(self.folder / "cluster.pem")
        self.renew_proxy()
        self.renew_serving()

    def renew_proxy(self) -> None:
        made = self.user("front-proxy-client", authority=self.proxy)
        made.private_key_and_cert_chain_pem.write_to_path(self.folder / "front-proxy.pem")

    def renew_serving(self) -> None:
        made = self.serving.issue_cert(SERVICE, "127.0.0.1")
        made.cert_chain_pems[0].write_to_path(self.folder / "serving.crt")
        made.private_key_pem.write_to_path(self.folder / "serving.key")

    def user(
        self, name: str, *groups: str, authority: trustme.CA | None = None, **options: Any
    ) -> trustme.LeafCert:
        """A client certificate as `kubectl` has one."""
        group = groups[0] if groups else None
        return (authority or self.clients).issue_cert(
            f"{name}.example.com", common_name=name, organization_name=group, **options
        )


class Replica(Daemon):
    """A server of the cluster."""

    def __init__(self, place: "Place", name: str, *arguments: str) -> None:
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self._place = place
        folder = place.certificates.folder
        super().__init__(
            "apiserver.main",
            [
                *("--bind-address", "127.0.0.1", "--secure-port", str(self.port)),
                *("--kubeconfig", str(folder / "server.kubeconfig")),
                *("--tls-cert-file", str(folder / "serving.crt")),
                *("--tls-private-key-file", str(folder / "serving.key")),
                *("--log-format", "json", *arguments),
            ],
            folder / f"{name}.log",
        )

    async def until_ready(self) -> None:
        async with self._place.client(self) as http, asyncio.timeout(20):
            while self.running:
                try:
                    if (await http.get("/readyz")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)
        raise RuntimeError(f"no server:\n{self.log.read_text()[-3000:]}")


class Place:
    """Where the stand-in is, and how its users reach it and the servers."""

    def __init__(self, folder: Path) -> None:
        self.certificates = Certificates(folder)
        self.folder = folder
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.kubeconfig("server", "server-token")
        self.standin: Daemon | None = None

    def kubeconfig(self, name: str, token: str) -> Path:
        authority = str(self.folder / "cluster-ca.pem")
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "there",
            "contexts": [{"name": "there", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [
                {"name": "c", "cluster": {"server": self.url, "certificate-authority": authority}}
            ],
            "users": [{"name": "u", "user": {"token": token}}],
        }
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(json.dumps(config))
        return path

    async def start(self, *backends: str) -> None:
        arguments = [str(self.folder), str(self.port), *backends]
        self.standin = Daemon("tests.lab.standin", arguments, self.folder / "standin.log")
        await self.standin.start()
        async with self.as_user("admin-token") as http, asyncio.timeout(20):
            while True:
                try:
                    await http.get("/api")
                    return
                except httpx.TransportError:
                    await asyncio.sleep(0.05)

    def as_user(self, token: str) -> httpx.AsyncClient:
        """A client of the stand-in."""
        context = ssl.create_default_context(cafile=self.folder / "cluster-ca.pem")
        return httpx.AsyncClient(
            base_url=self.url, verify=context, trust_env=False, timeout=20,
            headers={"Authorization": f"Bearer {token}"},
        )  # fmt: skip

    def client(
        self, replica: Replica, certificate: trustme.LeafCert | None = None, token: str = ""
    ) -> httpx.AsyncClient:
        """One that goes straight to a server."""
        context = ssl.create_default_context(cafile=self.folder / "serving-ca.pem")
        if certificate is not None:
            certificate.configure_cert(context)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(
            base_url=replica.url, verify=context, trust_env=False, timeout=20, headers=headers
        )

    async def control(self, what: str, body: Any = None, **query: Any) -> dict[str, Any]:
        async with self.as_user("admin-token") as http:
            answer = await http.post(f"/control/{what}", params=query, json=body)
            found: dict[str, Any] = answer.json()
            return found

    async def until_available(self, *replicas: Replica) -> None:
        async with asyncio.timeout(20):
            while True:
                state = (await self.control("state"))["available"]
                if all(state[replica.url] == "" for replica in replicas):
                    return
                await asyncio.sleep(0.05)


@dataclass
class World:
    """The stand-in with two servers."""

    place: Place
    replicas: tuple[Replica, Replica]

    @property
    def replica(self) -> Replica:
        return self.replicas[0]


async def started(folder: Path, etcd: EtcdServer) -> AsyncIterator[World]:
    place = Place(folder)
    certificates = place.certificates
    named = certificates.serving.issue_cert("*.example.com")
    named.cert_chain_pems[0].write_to_path(folder / "named.crt")
    named.private_key_pem.write_to_path(folder / "named.key")
    sni = ("--tls-sni-cert-key", f"{folder}/named.crt,{folder}/named.key:*.example.com")
    one, two = (
        Replica(place, name, "--etcd-servers", etcd.endpoint, *sni) for name in ("one", "two")
    )
    try:
        await place.start(one.url, two.url)
        for replica in (one, two):
            await replica.start()
        for replica in (one, two):
            await replica.until_ready()
        await place.until_available(one, two)
        yield World(place, (one, two))
    finally:
        for process in (one, two, place.standin):
            if process is not None and process.running:
                await process.kill()


@pytest.fixture(scope="session")
def own_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("cluster-etcd"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
async def world(
    tmp_path_factory: pytest.TempPathFactory, own_etcd: EtcdServer
) -> AsyncIterator[World]:
    """One that tests leave as they found it."""
    async for made in started(tmp_path_factory.mktemp("cluster"), own_etcd):
        yield made


@pytest.fixture
async def fragile(tmp_path: Path, own_etcd: EtcdServer) -> AsyncIterator[World]:
    """One that a test may break."""
    async for made in started(tmp_path, own_etcd):
        yield made


@pytest.fixture
async def admin(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.place.client(world.replica, token="admin-token") as http:
        yield http
        await http.delete(POLICIES)


NAMES = (f"policy-{number}" for number in itertools.count())


@pytest.fixture
def name() -> str:
    return next(NAMES)


def policy(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"podSelector": {"app": "web"}}}
