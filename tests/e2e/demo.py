"""`make demo`: the post of 2016 comes true on real packets.

A standalone server, an enforcer and pods in private network namespaces play the post's
walk-through. After each step every pair is probed with real connections, and the answers are held
against the reference verdict. Exit status 0 only if every probe was as it says; 2 if the machine
lacks something.
"""

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from policy import ISOLATION_ANNOTATION
from tests.lab.agents import Agents, Probe
from tests.lab.cluster import NODE_NAME, POLICIES, Api, PodSpec, expected
from tests.lab.processes import EnforcerProcess, Server
from tests.lab.world import World, world

DOCS = Path(__file__).resolve().parents[2] / "docs"
PORTS = (80, 8080)
PODS = (
    PodSpec("tenant-a", "frontend", {"segment": "frontend"}, ("10.66.0.11", "fd66::11")),
    PodSpec("tenant-a", "backend", {"segment": "backend"}, ("10.66.0.12", "fd66::12")),
    PodSpec("tenant-a", "stranger", {"segment": "stranger"}, ("10.66.0.13", "fd66::13")),
    PodSpec("tenant-b", "visitor", {"segment": "frontend"}, ("10.66.0.14", "fd66::14")),
)
SOURCES = (*(pod.host for pod in PODS), "outside", "node")
LATEST = 5.0  # seconds that a change may take until the demo gives up on it

console = Console(width=100, highlight=False)


@dataclass(slots=True)
class Demo:
    """The parts that a step needs, and how many probes were not as they should be."""

    world: World
    agents: Agents
    api: Api
    url: str
    wrong: int = 0
    probes: int = 0

    async def step(self, title: str, act: Callable[[], Awaitable[None]] | None = None) -> None:
        """Do something, wait until it bites, then probe every pair and print the matrix."""
        console.print(f"\n[bold]{title}[/bold]")
        before = expected(self.world, await self.api.cluster(), PAIRS)
        took = None
        if act is not None:
            await act()
            begun = time.monotonic()
            want = expected(self.world, await self.api.cluster(), PAIRS)
            changed = [probe for probe in PAIRS if before[probe] != want[probe]]
            took = await self._bite(changed[0], want[changed[0]], begun) if changed else None
        want = expected(self.world, await self.api.cluster(), PAIRS)
        have = await self.agents.probe(PAIRS)
        wrong = [probe for probe in PAIRS if have[probe] != want[probe]]
        self.wrong += len(wrong)
        self.probes += len(PAIRS)
        console.print(matrix(have, want))
        if took is not None:
            console.print(f"  took effect {took * 1000:.0f} ms after the server's answer")
        verdict = f"[bold red]{len(wrong)} wrong[/bold red]" if wrong else "all as they should be"
        console.print(f"  {len(PAIRS)} probes, {verdict}")

    async def _bite(self, probe: Probe, want: bool, begun: float) -> float | None:
        """Seconds until a probe has its new outcome."""
        while (asked := time.monotonic()) < begun + LATEST:
            outcome = await self.agents.ask(
                probe.source,
                timeout=0.03,
                do=probe.protocol,
                address=probe.address,
                port=probe.port,
            )
            if (outcome == "open") is want:
                return (time.monotonic() if want else asked) - begun
        return None

    async def command(self, *words: str) -> None:
        """Run a command as a user would, and show it."""
        console.print(f"  [dim]$ {' '.join(words)}[/dim]", soft_wrap=True)
        process = await asyncio.create_subprocess_exec(
            *words,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "KUBECONFIG": "/dev/null"},
        )
        output, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"{words[0]} failed: {output.decode()}")

    async def define(self) -> None:
        """The ThirdPartyResource of the post."""
        if shutil.which("kubectl"):
            path = str(DOCS / "third-party-res-def.yaml")
            await self.command("kubectl", "--server", self.url, "create", "-f", path)
        else:
            await self.api.create(
                "/apis/extensions/v1beta1/thirdpartyresources",
                {
                    "kind": "ThirdPartyResource",
                    "metadata": {"name": "network-policy.net.alpha.kubernetes.io"},
                    "versions": [{"name": "v1alpha1"}],
                },
            )

    async def isolate(self, value: str) -> None:
        if shutil.which("kubectl"):
            note = f"{ISOLATION_ANNOTATION}={value}"
            await self.command(
                *("kubectl", "--server", self.url, "annotate", "--overwrite"),
                *("namespace", "tenant-a", note),
            )
        else:
            await self.api.isolate("tenant-a", value)

    async def post(self) -> None:
        """The request of the post, by curl, with the form type that `-d` sends."""
        url = f"{self.url}{POLICIES}/namespaces/tenant-a/networkpolicys/"
        await self.command("curl", "-sf", url, "-d", f"@{DOCS / 'pol1.json'}")

    async def cut(self) -> None:
        """An established connection ends when the policy that let it in is deleted."""
        stream = await self.agents.hold("frontend", PODS[1].ips[0], 80)
        alive = await self.agents.ask("frontend", do="say", stream=stream)
        await self.api.drop_policy("tenant-a", "pol1")
        begun = time.monotonic()
        outcome = alive
        while outcome == "open" and time.monotonic() < begun + LATEST:
            outcome = await self.agents.ask("frontend", do="say", stream=stream)
        took = (time.monotonic() - begun) * 1000
        right = alive == "open" and outcome == "reset"
        self.wrong += not right
        self.probes += 2
        mark = "[green]✓[/green]" if right else "[bold red]✗[/bold red]"
        console.print(
            f"  {mark} frontend → backend: the open connection answered '{alive}' before,"
            f" and '{outcome}' {took:.0f} ms after"
        )


PAIRS = [
    Probe(source, ip, "tcp", port)
    for source in SOURCES
    for pod in PODS
    if source != pod.host
    for ip in pod.ips
    for port in PORTS
]


def matrix(have: Mapping[Probe, bool], want: Mapping[Probe, bool]) -> Table:
    """Who reaches whom: a row for each source, a mark for each family."""
    table = Table(title_justify="left", pad_edge=False, box=None, header_style="dim")
    table.add_column("  from \\ to")
    for pod in PODS:
        table.add_column(f"{pod.namespace}/{pod.name}")
    for source in SOURCES:
        cells = [Text("–", style="dim") if source == p.host else Text() for p in PODS]
        for pod, cell in zip(PODS, cells, strict=True):
            if source == pod.host:
                continue
            for port in PORTS:
                cell.append(f"{port} ", style="dim")
                for ip in pod.ips:
                    cell.append_text(_mark(Probe(source, ip, "tcp", port), have, want))
                cell.append("  ")
        table.add_row(f"  {source}", *cells)
    return table


def _mark(probe: Probe, have: Mapping[Probe, bool], want: Mapping[Probe, bool]) -> Text:
    if have[probe] != want[probe]:
        return Text("!", style="bold white on red")
    return Text("✓", style="green") if have[probe] else Text("✗", style="red")


async def play(folder: Path) -> Demo:
    """The whole walk-through; the outcome is in the result."""
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
            hosts = [made.node, *made.hosts.values()]
            async with (
                Agents(hosts, ports=PORTS) as agents,
                httpx.AsyncClient(base_url=server.url, trust_env=False) as http,
            ):
                demo = Demo(made, agents, Api(http), server.url)
                console.print(f"netpol-apiserver serves on {server.url}, backed by SQLite")
                await demo.define()
                for name in ("tenant-a", "tenant-b"):
                    await demo.api.namespace(name)
                for pod in PODS:
                    await demo.api.pod(pod)
                await enforcer.start()
                console.print("netpol-enforcer programs nftables in the node's namespace")
                console.print("each cell: TCP port, IPv4 mark, IPv6 mark", style="dim")
                await walk(demo)
                return demo
        finally:
            await enforcer.stop()
            await server.stop()


async def walk(demo: Demo) -> None:
    """The steps of the post, and what comes of them."""
    await demo.step("1. Network isolation is off by default: everybody reaches everybody")
    await demo.step("2. Isolation on: all traffic to tenant-a is blocked", lambda: _on(demo))
    await demo.step("3. Policy pol1: frontend may reach backend on port 80", demo.post)
    await demo.step(
        "4. The stranger is relabelled segment=frontend: the policy now means it too",
        lambda: demo.api.label("tenant-a", "stranger", {"segment": "frontend"}),
    )
    await demo.step(
        "5. And back", lambda: demo.api.label("tenant-a", "stranger", {"segment": "stranger"})
    )
    await demo.step("6. Isolation off: policies are inert", lambda: demo.isolate("off"))
    await demo.step("7. Isolation on again", lambda: _on(demo))
    console.print("\n[bold]8. pol1 is deleted while a connection is open[/bold]")
    await demo.cut()


async def _on(demo: Demo) -> None:
    await demo.isolate("on")


def main() -> int:
    """The exit status."""
    if os.geteuid() != 0:
        sys.stderr.write("demo: root is needed, for network namespaces and nftables\n")
        return 2
    begun = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="networkpolicys-") as folder:
            demo = asyncio.run(play(Path(folder)))
    except KeyboardInterrupt:
        return 130
    except (RuntimeError, OSError, json.JSONDecodeError) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 2
    right = demo.probes - demo.wrong
    console.print(
        f"\n{right} of {demo.probes} probes were as the policies say,"
        f" in {time.monotonic() - begun:.0f} s"
    )
    return 1 if demo.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
