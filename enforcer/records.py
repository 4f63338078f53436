"""Records of denied flows, from the kernel to the log and to who asks: the wiring of `flows`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from enforcer.flows.listing import Element
from enforcer.flows.log import FlowLog
from enforcer.flows.recorder import Flows
from enforcer.index import Index
from enforcer.nft import nflog
from enforcer.nft.kernel import Kernel
from enforcer.nft.nflog import Seen
from enforcer.skeleton import COUNTED, FLOW
from enforcer.table import Table
from policy import Namespace, Pod, Policy

TICK = 1.0  # seconds

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _View:
    """What a reason is found from; each is one look-up."""

    index: Index

    def owner(self, address: str) -> Pod | None:
        return self.index.owner(address)

    def namespace(self, name: str) -> Namespace | None:
        return self.index.namespaces.get(name)

    def policies(self, namespace: str) -> Sequence[Policy]:
        return tuple(self.index.policies.get(namespace, {}).values())


class Records:
    """`output` gets the lines; None: nobody does. Flows to `ignored` addresses are none of ours."""

    def __init__(
        self,
        table: Table,
        kernel: Kernel,
        index: Index,
        output: FlowLog | None,
        *,
        ignored: frozenset[str] = frozenset(),
    ) -> None:
        self._table = table
        self._kernel = kernel
        self._ignored = ignored
        self._output = output
        self._flows = Flows(view=_View(index), tell=output.write if output else _nothing)

    async def run(self, group: int) -> None:
        """Until cancelled. Without the log of the kernel its sets are still counted."""
        async with contextlib.AsyncExitStack() as stack:
            if group:
                try:
                    await stack.enter_async_context(_reading(self._kernel, group, self._see))
                except nflog.NoLog as error:
                    log.error("denied flows are counted, and not logged", error=str(error))
            while True:
                await asyncio.sleep(TICK)
                self._flows.tick()

    def _see(self, seen: Seen) -> None:
        if seen.destination not in self._ignored:
            self._flows.see(seen)

    def reopen(self) -> None:
        if self._output is not None:
            self._output.reopen()

    async def listed(
        self, *, namespace: str, pod: str, verdict: str, limit: int
    ) -> Sequence[Mapping[str, Any]]:
        """What is in the kernel's sets now, with reasons, newest first."""
        elements = []
        for kind in COUNTED if self._table.name else ():
            for version, key_type in FLOW.items():
                found = await self._kernel.counted(self._table.name, f"{kind}{version}", key_type)
                for flow in found:
                    client, target, protocol, port = flow.key
                    counted = flow.packets, flow.octets, flow.expires
                    if target not in self._ignored:
                        elements.append(
                            Element(kind, client, target, protocol, int(port), *counted)
                        )
        return self._flows.merge(
            elements, namespace=namespace, pod=pod, verdict=verdict, limit=limit
        )

    async def denied(self) -> Mapping[str, int]:
        """Packets that were dropped or rejected, by the chain that did it."""
        if not self._table.name:
            return {}
        counted = await self._kernel.counters(self._table.name)
        return {reason: counted.get(chain, 0) for chain, reason in _REASONS.items()}


_REASONS = {
    "deny": "not_allowed",
    "unknown": "unknown_pod",
    "raw_guard": "invalid_or_untracked",
    "midstream": "midstream",
    "audit": "audited",
}


@contextlib.asynccontextmanager
async def _reading(kernel: Kernel, group: int, tell: Callable[[Seen], None]) -> AsyncIterator[None]:
    """The kernel's log, read by the loop. `nflog.NoLog`."""
    sock = await kernel.inside(nflog.open_socket, group)
    reader = nflog.Reader(sock, tell)
    loop = asyncio.get_running_loop()
    loop.add_reader(sock, reader.read)
    try:
        yield
    finally:
        loop.remove_reader(sock)
        sock.close()


def _nothing(line: bytes) -> None:
    """There is no log of flows."""
