"""One lab for the whole folder: a node with pods, a server, an enforcer; a clean slate a test."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from enforcer.nft.kernel import Kernel
from enforcer.table import Table
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
        have = await self.agents.probe(listed, patient=[p for p in listed if want[p]])
        wrong = {probe: want[probe] for probe in listed if have[probe] != want[probe]}
        assert not wrong, f"wanted: {wrong}"
        return have

    async def reset(self) -> None:
        """Isolation off, no policies, pods as they were."""
        await clear(self.api)
        await self.settled()

    def other(
        self, folder: Path, *arguments: str, server: str = "", prefix: Sequence[str] = ()
    ) -> "Lab":
        """The same with another enforcer, which the caller starts and ends."""
        enforcer = EnforcerProcess(
            folder,
            server=server or self.server.url,
            netns=self.world.node.netns,
            arguments=["--node-name", NODE_NAME, *arguments],
            prefix=prefix,
        )
        return replace(self, enforcer=enforcer)


async def clear(api: Api) -> None:
    for namespace in ("a", "b"):
        await api.isolate(namespace, None)
        await api.delete(f"{POLICIES}/namespaces/{namespace}/networkpolicys")
        await api.delete(f"/api/v1/namespaces/{namespace}/pods")
    await api.pod(PodSpec("b", "clock", {}, ("10.66.250.201",)))
    for pod in PODS:
        await api.pod(pod)


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
    if not session_lab.enforcer.running:
        await session_lab.enforcer.start()
    await session_lab.reset()
    return session_lab


@pytest.fixture
async def vacant(session_lab: Lab) -> AsyncIterator[Lab]:
    """The lab without its enforcer and its table: a test brings its own."""
    if session_lab.enforcer.running:
        await session_lab.enforcer.stop()
        await cleanup(session_lab.world)
    await clear(session_lab.api)
    yield session_lab
    await cleanup(session_lab.world)


@pytest.fixture
async def kernel(session_lab: Lab) -> AsyncIterator[Kernel]:
    """For looking at the tables of the node."""
    looking = Kernel(netns=session_lab.world.node.netns)
    yield looking
    looking.close()


async def cleanup(made: World) -> None:
    """Remove the table, whoever left it."""
    kernel = Kernel(netns=made.node.netns)
    try:
        await Table(kernel).remove()
    finally:
        kernel.close()


async def command(*arguments: str) -> tuple[int, str]:
    """Run a command of the enforcer: its exit status, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "enforcer.main", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(20):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()
