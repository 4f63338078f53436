"""Two nodes with an enforcer each, one server; a clean slate a test."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.lab import services
from tests.lab.agents import Agents, Probe
from tests.lab.cluster import POLICIES, Api, Arrival, PodSpec, judged
from tests.lab.processes import EnforcerProcess, Server
from tests.lab.services import Service
from tests.lab.site import NODES, RANGES, Site, site

PORTS = (80, 81, 8100)
WEB = ({"name": "web", "containerPort": 80, "protocol": "TCP"},)
FIRST: Mapping[str, str] = {"nodeName": "node-1"}
SECOND: Mapping[str, str] = {"nodeName": "node-2"}


def _pod(namespace: str, name: str, last: int) -> PodSpec:
    role, number = name.split("-")
    middle, fields = ("0", FIRST) if number == "1" else ("1", SECOND)
    ips = (f"10.66.{middle}.{last}", f"fd66{':1' if number == '2' else ''}::{last}")
    return PodSpec(namespace, name, {"role": role}, ips, WEB, fields)


PODS = tuple(
    _pod(namespace, f"{role}-{number}", last)
    for number in (1, 2)
    for namespace, role, last in (("a", "front", 11), ("a", "back", 12), ("b", "other", 13))
)
FRONT1, BACK1, OTHER1, FRONT2, BACK2, OTHER2 = PODS
SERVICES = tuple(
    Service(
        name=pod.name,
        ips=(f"10.99.0.{number}", f"fd66:99::{number}"),
        port=8100,
        node_port=30080 + number,
        node=f"node-{number}",
        pod=(pod.ips[0], pod.ips[1]),
        target=80,
    )
    for number, pod in ((1, BACK1), (2, BACK2))
)
SOURCES = ("outside", *NODES, *(pod.name for pod in PODS))


@dataclass(slots=True)
class Lab:
    """What a test needs; `check` holds packets against the reference verdict."""

    site: Site
    agents: Agents
    api: Api
    server: Server
    enforcers: Mapping[str, EnforcerProcess]
    _ticks: int = 0

    def netns(self, host: str) -> str:
        return self.site.hosts[host].netns

    async def settled(self) -> None:
        """Wait until both enforcers have heard of everything up to now.

        A change of its own, to pods that only mark the time, is committed after all before.
        """
        before = {name: len(one.events("committed")) for name, one in self.enforcers.items()}
        self._ticks += 1
        for number, name in enumerate(self.enforcers):
            ip = f"10.66.{250 + number}.{self._ticks % 200 + 1}"
            await self.api.address("b", f"clock-{name}", [ip])
        deadline = time.monotonic() + 10
        for name, one in self.enforcers.items():
            while len(one.events("committed")) == before[name]:
                assert time.monotonic() < deadline, one.log.read_text()[-3000:]
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)

    async def expected(self, probes: Iterable[Probe]) -> dict[Probe, bool]:
        """What the reference verdict says, by way of the Services."""

        def arrival(probe: Probe) -> Arrival | None:
            found = (service.arrival(probe) for service in SERVICES)
            return next((end for end in found if end is not None), None)

        return judged(self.site.hosts, await self.api.cluster(), probes, arrival)

    async def check(self, probes: Iterable[Probe]) -> dict[Probe, bool]:
        """Probe, compare with the verdict, and return what got through."""
        await self.settled()
        listed = list(probes)
        want = await self.expected(listed)
        have = await self.agents.probe(listed, patient=[p for p in listed if want[p]])
        wrong = {probe: want[probe] for probe in listed if have[probe] != want[probe]}
        assert not wrong, f"wanted: {wrong}"
        return have

    async def reset(self) -> None:
        """Isolation off, no policies, pods as they were."""
        for namespace in ("a", "b"):
            await self.api.isolate(namespace, None)
            await self.api.delete(f"{POLICIES}/namespaces/{namespace}/networkpolicys")
            await self.api.delete(f"/api/v1/namespaces/{namespace}/pods")
        for name in NODES:
            await self.api.pod(PodSpec("b", f"clock-{name}", {}, (), (), {"nodeName": name}))
        for pod in PODS:
            await self.api.pod(pod)
        await self.settled()


def pairs(
    sources: Sequence[str] = SOURCES,
    pods: Sequence[PodSpec] = PODS,
    kinds: Sequence[tuple[str, int]] = (("tcp", 80), ("tcp", 81), ("udp", 80), ("icmp", 0)),
) -> list[Probe]:
    """Every pair of a source and a pod, in both families."""
    return [
        Probe(source, ip, protocol, port)
        for source in sources
        for pod in pods
        if source != pod.name
        for ip in pod.ips
        for protocol, port in kinds
    ]


@pytest.fixture(scope="session")
async def session_lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    folder: Path = tmp_path_factory.mktemp("nodes")
    server = Server(folder)
    placed = {
        name: {pod.name: pod.ips for pod in PODS if pod.fields["nodeName"] == name}
        for name in NODES
    }
    enforcers: dict[str, EnforcerProcess] = {}
    with site(placed) as made:
        for name, node in made.nodes.items():
            node.nft(services.rules(SERVICES, name))
            (folder / name).mkdir()
            ranges = [item for cidr in RANGES[name] for item in ("--pod-cidr", cidr)]
            enforcers[name] = EnforcerProcess(
                folder / name,
                server=server.url,
                netns=node.node.netns,
                arguments=["--node-name", name, *ranges],
            )
        try:
            await server.start()
            async with (
                Agents(made.hosts.values(), ports=PORTS) as agents,
                httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20) as http,
            ):
                api = Api(http, nodes=NODES)
                for name in ("a", "b"):
                    await api.namespace(name, labels={"team": name})
                await asyncio.gather(*(one.start() for one in enforcers.values()))
                yield Lab(made, agents, api, server, enforcers)
        finally:
            for one in enforcers.values():
                await one.stop()
            await server.stop()


@pytest.fixture
async def lab(session_lab: Lab) -> Lab:
    await session_lab.reset()
    return session_lab
