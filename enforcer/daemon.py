"""`netpol-enforcer run`: everything that the process does until it is told to stop."""

import asyncio
import contextlib
import gc
import random
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import structlog

from enforcer import fetch, guards, saved
from enforcer.cni import wait
from enforcer.compile import Compiler
from enforcer.flows.log import FlowLog
from enforcer.host import canary
from enforcer.host.bypass import Detector
from enforcer.host.pair import DEVICES
from enforcer.host.tags import Tags
from enforcer.model import NAMESPACES, PODS, POLICIES
from enforcer.nft.kernel import Kernel
from enforcer.records import Records
from enforcer.settings import Settings
from enforcer.sync import Enforcer
from enforcer.table import Table
from enforcer.telemetry import serve
from enforcer.telemetry.endpoint import Endpoint
from enforcer.telemetry.metrics import Metrics
from enforcer.telemetry.routes import application
from enforcer.telemetry.status import Status

# New objects until they are looked through for garbage, and how often so until older ones are. A
# list of 10,000 pods makes 200,000, all of them needed: looked through again and again, as by
# default, they take half of its time, and the loop stands still for up to 0.2 s.
GARBAGE = (20_000, 1_000)

log = structlog.get_logger()


class OnExit(StrEnum):
    """What becomes of the table when the process is told to stop."""

    KEEP = "keep"
    OPEN = "open"
    CLOSED = "closed"


class Probing(StrEnum):
    """Whether a canary is probed: where this host lets it, in any case, or never."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the flags of `run` say, the servers apart. `verify_every` is in seconds."""

    pod_cidrs: tuple[str, ...]
    netns: str
    endpoint: Endpoint | None
    wait_socket: Path | None
    state: str
    flow_log: str
    log_group: int
    probing: Probing
    on_exit: OnExit
    owned: bool
    verify_every: float


@contextlib.asynccontextmanager
async def sources(chosen: Settings) -> AsyncIterator[dict[str, fetch.Connection]]:
    """The server of each resource. `BadAccess`."""
    async with contextlib.AsyncExitStack() as stack:
        cluster = policies = fetch.Connection(chosen.cluster)
        stack.push_async_callback(cluster.close)
        if chosen.policies is not None:
            policies = fetch.Connection(chosen.policies)
            stack.push_async_callback(policies.close)
        yield {NAMESPACES: cluster, PODS: cluster, POLICIES: policies}


async def run(chosen: Settings, options: Options) -> None:
    """Until SIGTERM or SIGINT. `BadAccess`, `Taken`, `KernelError`, `OSError`."""
    gc.set_threshold(*GARBAGE)
    bound = serve.bind(options.endpoint) if options.endpoint else None
    kernel = Kernel(netns=options.netns, owned=options.owned)
    # Who reads counters or looks around must not hold up a commit.
    reader = Kernel(netns=options.netns)
    # Nor wait, where a port of a pod has to be guarded.
    guard = Kernel(netns=options.netns)
    output = FlowLog(options.flow_log) if options.flow_log else None
    try:
        async with sources(chosen) as servers:
            daemon = _Daemon(chosen, options, servers, Table(kernel), reader, guard, output)
            await daemon.run(bound)
    finally:
        kernel.close()
        reader.close()
        guard.close()
        if output is not None:
            output.close()


class _Daemon:
    def __init__(
        self,
        chosen: Settings,
        options: Options,
        servers: dict[str, fetch.Connection],
        table: Table,
        reader: Kernel,
        guard: Kernel,
        output: FlowLog | None,
    ) -> None:
        self._options = options
        self._reader = reader
        self._guard = guard
        self._tags = Tags(owned=options.owned)
        self._table = table
        self._status = Status(node=chosen.node)
        compiler = Compiler(
            node=chosen.node, pod_cidrs=options.pod_cidrs, log_group=options.log_group
        )
        ignored: frozenset[str] = frozenset()
        apart: frozenset[str] = frozenset()
        if options.probing is not Probing.OFF:
            canary.put(compiler, chosen.node)
            apart, ignored = frozenset({canary.NAMESPACE}), frozenset(canary.DEFAULT.target)
        self._records = Records(table, reader, compiler.index, output, ignored=ignored)
        self._enforcer = Enforcer(
            sources=servers,
            table=table,
            compiler=compiler,
            status=self._status,
            node=chosen.node,
            rand=random.SystemRandom(),
            apart=apart,
            state=saved.place(options.state, options.netns),
            verify_every=options.verify_every,
        )
        cluster, policies = servers[PODS].access, servers[POLICIES].access
        log.info(
            "starting",
            cluster=f"{cluster.server} ({cluster.origin})",
            policies=f"{policies.server} ({policies.origin})",
            node=chosen.node or "(every pod)",
        )

    async def run(self, bound: socket.socket | None) -> None:
        task = asyncio.create_task(self._run(bound), name="enforcer")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        loop.add_signal_handler(signal.SIGHUP, self._reread)
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await self._leave()

    async def _run(self, bound: socket.socket | None) -> None:
        options, status = self._options, self._status
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._enforcer.run(), name="enforce")
            tasks.create_task(self._records.run(options.log_group), name="records")
            detector = Detector(ignored=DEVICES)
            ways = guards.Ways(status)
            tasks.create_task(guards.watch_bypass(self._reader, detector, ways), name="bypass")
            tasks.create_task(guards.watch_tags(self._guard, self._tags, ways), name="tags")
            if options.probing is not Probing.OFF:
                wanted = options.probing is Probing.ON
                tasks.create_task(
                    guards.watch_canary(options.netns, status, wanted=wanted), name="canary"
                )
            if options.wait_socket is not None:
                starts = self._enforcer.starts
                tasks.create_task(
                    wait.serve(
                        path=options.wait_socket,
                        programmed=starts.programmed,
                        released=starts.released,
                    ),
                    name="wait socket",
                )
            if bound is not None:
                metrics = Metrics(status, denied=self._records.denied)
                routes = application(status, metrics, self._records.listed)
                tasks.create_task(serve.serve(routes, bound), name="serve")

    def _reread(self) -> None:
        log.info("SIGHUP: reading everything again")
        self._records.reopen()
        self._enforcer.reread()

    async def _leave(self) -> None:
        """What `--on-exit` says, once nothing commits any more."""
        rules = self._enforcer.rules
        if self._options.on_exit is OnExit.OPEN:
            await self._table.remove()
            await self._guard.inside(self._tags.remove)
            log.warning("stopped; the table is gone, all traffic passes")
        elif self._options.on_exit is OnExit.CLOSED and rules is not None:
            await self._table.close(rules)
            log.info("stopped; nothing gets in to isolated pods")
        else:
            log.info("stopped; the table stays in place")
