"""Talk to the agents: one a namespace, all probes at the same time."""

import asyncio
import itertools
import json
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.lab.world import Host

OUTCOMES = frozenset({"open", "refused", "reset", "silent"})
DENIED_AFTER = 0.4  # seconds without an answer; a connection on one machine takes under 1 ms
ALLOWED_WITHIN = 5.0  # seconds for what should pass, however busy the machine is


@dataclass(frozen=True, slots=True)
class Probe:
    """One try: from a host to an address, by `tcp`, `udp`, `sctp` or `icmp` (port 0)."""

    source: str
    address: str
    protocol: str
    port: int


class Agents:
    """The processes; an async context that ends them by their own handles."""

    def __init__(self, hosts: Iterable[Host], *, ports: Sequence[int]) -> None:
        self._hosts = list(hosts)
        self._ports = [str(port) for port in ports]
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._readers: list[asyncio.Task[None]] = []
        self._waiting: dict[int, asyncio.Future[str]] = {}
        self._ids = itertools.count(1)

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(*map(self._start, self._hosts))
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()
        for process in self._processes.values():
            await process.wait()
        await asyncio.gather(*self._readers)

    async def probe(
        self, probes: Iterable[Probe], *, patient: Collection[Probe] = ()
    ) -> dict[Probe, bool]:
        """Which of the tries went through; some may take longer, for the machine may be busy."""
        listed, long = list(dict.fromkeys(probes)), frozenset(patient)

        async def one(p: Probe) -> str:
            timeout = ALLOWED_WITHIN if p in long else DENIED_AFTER
            return await self.ask(
                p.source, timeout=timeout, do=p.protocol, address=p.address, port=p.port
            )

        outcomes = await asyncio.gather(*map(one, listed))
        answers = dict(zip(listed, outcomes, strict=True))
        broken = {p: outcome for p, outcome in answers.items() if outcome not in OUTCOMES}
        if broken:
            raise RuntimeError(f"probes that could not be made: {broken}")
        return {probe: outcome == "open" for probe, outcome in answers.items()}

    async def hold(self, source: str, address: str, port: int) -> int:
        """Open a connection and keep it; its number."""
        stream = next(self._ids)
        outcome = await self._send(
            source,
            {"id": stream, "do": "hold", "address": address, "port": port, "timeout": 2.0},
        )
        assert outcome == "open", f"{source} could not connect to {address}: {outcome}"
        return stream

    async def ask(self, host: str, *, timeout: float = DENIED_AFTER, **request: object) -> str:
        """Have a host do something; the outcome in a word."""
        return await self._send(host, {"id": next(self._ids), "timeout": timeout, **request})

    async def _send(self, host: str, request: dict[str, object]) -> str:
        answer = asyncio.get_running_loop().create_future()
        number = request["id"]
        assert isinstance(number, int)
        self._waiting[number] = answer
        stdin = self._processes[host].stdin
        assert stdin is not None
        stdin.write(json.dumps(request).encode() + b"\n")
        await stdin.drain()
        outcome: str = await answer
        return outcome

    async def _start(self, host: Host) -> None:
        process = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", host.netns, sys.executable, "-m", "tests.lab.agent"),
            *self._ports,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._processes[host.name] = process
        assert process.stdout is not None
        ready = await process.stdout.readline()
        if not ready:
            raise RuntimeError(f"the agent of {host.name} did not start")
        self._readers.append(asyncio.create_task(self._read(process.stdout)))

    async def _read(self, stdout: asyncio.StreamReader) -> None:
        while line := await stdout.readline():
            answer = json.loads(line)
            waiting = self._waiting.pop(answer["id"], None)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer["outcome"])
