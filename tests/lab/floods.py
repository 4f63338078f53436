"""Steady traffic between hosts, with an account of every datagram."""

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

from tests.lab.world import Host

DRAIN = 0.3  # seconds that what was sent last may take; on one machine it is under 1 ms
Account = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a host does: it answers on ports, and sends `burst` datagrams every `pause` seconds.

    `datagrams` and `streams` are addresses and ports. `everywhere` is an address and a number: so
    many datagrams to ports at random, as fast as it goes, and nothing else.
    """

    listen: tuple[int, ...] = ()
    datagrams: tuple[tuple[str, int], ...] = ()
    streams: tuple[tuple[str, int], ...] = ()
    everywhere: tuple[str, int] | None = None
    burst: int = 16
    pause: float = 0.008


class Floods:
    """The processes, ended by their own handles."""

    def __init__(self, plans: Mapping[Host, Plan]) -> None:
        self._plans = plans
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def __aenter__(self) -> Self:
        try:
            # Who listens comes first.
            for host, plan in sorted(self._plans.items(), key=lambda item: not item[1].listen):
                await self._start(host, plan)
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
            await process.wait()

    async def accounts(self) -> dict[str, Account]:
        """Stop sending, let everything arrive, and tell what each host has counted."""
        for process in self._processes.values():
            _write(process, b"rest\n")
        await asyncio.sleep(DRAIN)
        for process in self._processes.values():
            _write(process, b"tell\n")
        return await self.results()

    async def results(self) -> dict[str, Account]:
        """What each host tells, which is at its end where that comes by itself."""
        return {name: await _line(process) for name, process in self._processes.items()}

    async def _start(self, host: Host, plan: Plan) -> None:
        command = ("ip", "netns", "exec", host.netns, sys.executable, "-m", "tests.lab.flood")
        process = await asyncio.create_subprocess_exec(
            *command,
            json.dumps(asdict(plan)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._processes[host.name] = process
        assert await _line(process) == "ready"


def _write(process: asyncio.subprocess.Process, line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line)


async def _line(process: asyncio.subprocess.Process) -> Any:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        return json.loads(await process.stdout.readline())
