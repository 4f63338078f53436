"""One lab for the whole folder: a node with pods, a server, an enforcer; a clean slate a test."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.lab.agents import Agents, Probe
from tests.lab.cluster import NODE_NAME, POLICIES, Api, PodSpec, expected
from tests.lab.processes import EnforcerProcess, Server
from tests.lab.world import World, world

PORTS = (80, 81, 443, 6379, 8100)
WEB = ({"name": "web", "containerPort": 81, "protocol": "TCP"},)
PODS = (
    PodSpec("a", "front", {"role": "front"}, ("10.66.0.11", "fd66::11")),
    PodSpec("a", "back", {"role": "back"}, ("10.66.0.12", "fd66::12"), WEB),
    PodSpec("b", "other", {"role": "front"}, ("10.66.0.13", "fd66::13")),
)
SOURCES = ("front", "back", "other", "outside", "node")


@dataclass(slots=True)
class Lab:
    """What a test needs; `check` holds every pair of packets against the reference verdict."""

    world: World
    agents: Agents
    api: Api
    server: Server
    enforcer: EnforcerProcess

    async def settled(self) -> None:
        """Wait until the enforcer has heard of everything up to now.

        A change of its own, to a pod that only marks the time, is committed after all before.
        """
        committed = len(self.enforcer.events("committed"))
        await self.api.address("b", "clock", [f"10.66.250.{committed % 200 + 1}"])
        deadline = time.monotonic() + 10
        while len(self.enforcer.events("committed")) == committed:
            assert time.monotonic() < deadline, self.enforcer.log.read_text()[-3000:]
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)

    async def check(self, probes: Iterable[Probe] | None = None) -> dict[Probe, bool]:
        """Probe, compare with the verdict, and return what got through."""
        await self.settled()
        listed = list(probes) if probes is not None else everything()
        want = expected(self.world, await self.api.cluster(), listed)
        have = await self.agents.probe(listed)
        wrong = {probe: want[probe] for probe in listed if have[probe] != want[probe]}
        assert not wrong, f"wanted: {wrong}"
        return have

    async def reset(self) -> None:
        """Isolation off, no policies, pods as they were."""
        for namespace in ("a", "b"):
            await self.api.isolate(namespace, None)
            await self.api.delete(f"{POLICIES}/namespaces/{namespace}/networkpolicys")
            await self.api.delete(f"/api/v1/namespaces/{namespace}/pods")
        await self.api.pod(PodSpec("b", "clock", {}, ("10.66.250.201",)))
        for pod in PODS:
            await self.api.pod(pod)
        await self.settled()


def everything(ports: Sequence[int] = (80, 81)) -> list[Probe]:
    """Every pair, both families, TCP on the ports, UDP, SCTP and ICMP."""
    found = []
    for source in SOURCES:
        for pod in PODS:
            if source == pod.host:
                continue
            for ip in pod.ips:
                found += [Probe(source, ip, "tcp", port) for port in ports]
                found += [Probe(source, ip, "udp", 80), Probe(source, ip, "icmp", 0)]
                found += [Probe(source, ip, "sctp", 80)]
    return found


def rule(*peers: dict[str, Any], ports: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {"from": list(peers), "toPorts": list(ports)}


def spec(role: str | None, *rules: dict[str, Any]) -> dict[str, Any]:
    """A policy for the pods of a role, or for all."""
    return {"podSelector": {"role": role} if role else {}, "allowIncoming": list(rules)}


@pytest.fixture(scope="session")
async def session_lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    folder: Path = tmp_path_factory.mktemp("lab")
    server = Server(folder)
    with world({pod.host: pod.ips for pod in PODS}) as made:
        enforcer = EnforcerProcess(
            folder,
            server=server.url,
            netns=made.node.netns,
            arguments=["--node-name", NODE_NAME],
        )
        try:
            await server.start()
            async with (
                Agents([made.node, *made.hosts.values()], ports=PORTS) as agents,
                httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20) as http,
            ):
                api = Api(http)
                for name in ("a", "b"):
                    await api.namespace(name, labels={"team": name})
                await enforcer.start()
                yield Lab(made, agents, api, server, enforcer)
        finally:
            await enforcer.stop()
            await server.stop()


@pytest.fixture
async def lab(session_lab: Lab) -> Lab:
    await session_lab.reset()
    return session_lab
