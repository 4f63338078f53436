"""The enforcer as a process, on a node of a large cluster: starts, rest, and changes.

The server, the enforcer and the filter are the real ones, the last in a network namespace that is
made for it. A change is in force when the kernel announces it to a process of its own, and its time
runs from the moment at which the server's answer to whoever asked for it has been read.
"""

import asyncio
import contextlib
import os
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

from bench import servers
from bench.changes import Change, changes, creation, status
from bench.connection import Connection
from bench.footprint import Memory
from bench.pairs import Of, Outcome, Target
from bench.population import NODE, Objects, populated
from bench.scale import Scale
from bench.witness import Seen, Witness
from bench.writers import Writers
from tests.lab.processes import EnforcerProcess
from tests.lab.world import world

START = Target(3.0, most=True, of=Of.OURS)  # s
IDLE = Target(1.0, most=True, of=Of.OURS)  # % of a processor
RESIDENT = Target(300.0, most=True, of=Of.OURS)  # MB
USUAL = Target(15.0, most=True, of=Of.OURS)  # ms
WORST = Target(50.0, most=True, of=Of.OURS)  # ms
PROMPT = Target(250.0, most=True, of=Of.OURS)  # ms
PACE = 20  # changes a second
FILLING = 16  # connections that make objects
SETTLE = 0.4  # of the time at rest, after a start: in a full run the ruleset is saved by then
LOOK = 0.005  # seconds between two probes
PATIENCE = 15.0  # seconds for the last change
TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds


class Ours(EnforcerProcess):
    """The real enforcer; `pid` is that of its process while it runs."""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def when(self, event: str) -> float:
        """The time of the first such line of its log, in seconds of the epoch."""
        return datetime.fromisoformat(str(self.events(event)[0]["timestamp"])).timestamp()

    def worked(self) -> float:
        """Seconds of processor time so far, those of its threads and children included."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) * TICK


class _Probes:
    """Asks whether a process is alive, again and again while the block lasts; `took` is seconds.

    Only once it has answered: before, it is being started. So `took` may be empty.
    """

    def __init__(self, url: str) -> None:
        self.took: list[float] = []
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="probes")

    def __enter__(self) -> "_Probes":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        answered = False
        while not self._over.wait(LOOK):
            begun = time.monotonic()
            with contextlib.suppress(OSError), Connection(self._url) as ours:
                ours.ask("GET", "/livez")
                if answered:
                    self.took.append(time.monotonic() - begun)
                answered = True


class _Enforced(NamedTuple):
    """A change, and the milliseconds that it took."""

    kind: str
    took: float


async def enforcing(folder: Path, scale: Scale) -> list[Outcome]:
    """Seconds, percent of a processor, MB, and milliseconds."""
    objects = populated(scale.pods, scale.policies)
    with world({}) as made:
        netns = made.node.netns
        async with servers.ours(folder) as server:
            _fill(server.url, objects)
            flags = ("--node-name", NODE, "--on-exit", "open")
            ours = Ours(folder, server=server.url, netns=netns, arguments=flags)
            try:
                starts = await _starts(ours, folder, scale)
                await asyncio.sleep(SETTLE * scale.idle)
                idle, resident = await _idle(ours, scale), _memory(ours, "at rest")
                with Witness(netns) as witness, Connection(server.url) as writer:
                    found = _changes(objects, witness, writer, scale)
                return [*starts, idle, *_delays(found), resident, _memory(ours, "after changes")]
            finally:
                await ours.stop()


def _fill(url: str, objects: Objects) -> None:
    with Connection(url) as server:
        for space in objects.namespaces:
            creation(space).ask(server)
    created = map(creation, chain(objects.policies, objects.pods))
    for calls in (created, map(status, objects.pods)):
        requests = (call.written(url) for call in calls)
        with Writers(url, [requests] * FILLING) as writers:
            writers.write(len(objects.pods) + len(objects.policies) * (calls is created))


async def _starts(ours: Ours, folder: Path, scale: Scale) -> list[Outcome]:
    """Start it some times over, with no table and nothing saved; it runs afterwards."""
    whole, synced, silent = [], [], []
    for _ in range(scale.starts):
        await ours.stop()
        shutil.rmtree(folder / "state", ignore_errors=True)
        with _Probes(ours.url) as probes:
            begun = time.time()
            await ours.start()
        silent.append(1_000 * max(probes.took, default=0.0))
        done = ours.when("enforcing")
        whole.append(done - begun)
        synced.append(done - ours.when("synced"))
    (committed,) = ours.events("committed")[:1]
    name, size = f"start, {scale.pods:,} pods", f"{committed['elements']:,} elements"
    return [
        Outcome(f"{name}, from synced to committed", "s", tuple(synced), target=START, note=size),
        Outcome(f"{name}, from the process on", "s", tuple(whole)),
        Outcome(f"{name}, slowest answer to a probe", "ms", tuple(silent), target=PROMPT),
    ]


async def _idle(ours: Ours, scale: Scale) -> Outcome:
    probed = [str(line["outcome"]) for line in ours.events("canary")] or ["none"]
    begun, worked = time.monotonic(), ours.worked()
    await asyncio.sleep(scale.idle)
    share = 100 * (ours.worked() - worked) / (time.monotonic() - begun)
    return Outcome(
        "processor time at rest", "%", (share,), target=IDLE, note=f"canary: {probed[-1]}"
    )


def _memory(ours: Ours, when: str) -> Outcome:
    found = Memory.of(ours.pid)
    note = f"peak {found.peak:.0f} MB"
    return Outcome(f"memory {when}", "MB", (found.resident,), target=RESIDENT, note=note)


def _changes(
    objects: Objects, witness: Witness, writer: Connection, scale: Scale
) -> list[_Enforced]:
    asked: list[tuple[Change, float, float]] = []
    begun = time.monotonic()
    for number, change in enumerate(islice(changes(objects), scale.changes)):
        for call in change.prepared:
            call.ask(writer)
        time.sleep(max(0.0, begun + number / PACE - time.monotonic()))
        sent = time.monotonic()
        change.call.ask(writer)
        asked.append((change, sent, time.monotonic()))
    seen: list[Seen] = []
    end = time.monotonic() + PATIENCE
    while True:
        time.sleep(0.2)
        seen += witness.seen()
        found = _matched(asked, seen)
        if len(found) == len(asked):
            return found
        if time.monotonic() > end:
            raise RuntimeError(f"only {len(found)} of {len(asked)} changes are in force")


def _matched(asked: Sequence[tuple[Change, float, float]], seen: Sequence[Seen]) -> list[_Enforced]:
    """Those that were announced after they were asked for."""
    found, start = [], 0
    for change, sent, answered in asked:
        while start < len(seen) and seen[start].when < sent:
            start += 1
        when = next((item.when for item in seen[start:] if change.effect.is_in(item)), None)
        if when is not None:
            found.append(_Enforced(change.kind, (when - answered) * 1_000))
    return found


def _delays(found: Sequence[_Enforced]) -> list[Outcome]:
    """Half, and 99 of 100 of all changes were in force sooner than that."""
    by_kind = defaultdict(list)
    for item in found:
        by_kind[item.kind].append(item.took)
    took = [item.took for item in found]
    cuts = quantiles(took, n=100)
    kinds = ", ".join(f"{kind} {median(some):.1f}" for kind, some in by_kind.items())
    name = f"answer to commit, {PACE} changes/s"
    return [
        Outcome(f"{name}, p50", "ms", (cuts[49],), target=USUAL, note=kinds),
        Outcome(
            f"{name}, p99", "ms", (cuts[98],), target=WORST, note=f"greatest {max(took):.0f} ms"
        ),
    ]
