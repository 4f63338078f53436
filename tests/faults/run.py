"""Ten thousand operations with faults at chosen counts, then the verdict on what was recorded."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tests.faults import policies
from tests.faults.check import violations
from tests.faults.client import Client, NotSent, Server
from tests.faults.history import COLOURS, History, Kind, Outcome, Recorder
from tests.faults.watcher import Watcher
from tests.faults.workload import Workload

OPERATIONS = int(os.environ.get("NETPOL_FAULT_OPERATIONS", "10000"))
SEED = int(os.environ.get("NETPOL_FAULT_SEED", "1"))
WATCHERS = 6
SELECTING = 2  # of the watchers have a selector
LAST = (Kind.CREATE, Kind.UPDATE, Kind.LIST)
ATTEMPTS = 600  # at the last write, a twentieth of a second apart
LONGEST = 180.0  # seconds: a server that does not come back ends the run
SHOWN = 12  # violations; the rest mostly follow from the first
CATCH_UP = 20.0  # seconds that the watchers get after the last write


@dataclass(slots=True)
class Ongoing:
    """A run, as a fault sees it."""

    workload: Workload
    watchers: Sequence[Watcher]
    recorder: Recorder

    async def failed(self, more: int) -> None:
        """Return when so many more operations have an unknown outcome, or when all are done."""
        wanted = self.recorder.count(Outcome.UNKNOWN) + more
        while not self.workload.over and self.recorder.count(Outcome.UNKNOWN) < wanted:
            await asyncio.sleep(0.05)


Act = Callable[[Ongoing], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done when that many operations are done; the operations go on meanwhile."""

    at: int
    act: Act


@dataclass(frozen=True, slots=True)
class Report:
    """What happened: `unknown` and `unsent` operations, broken watches, and 410s.

    A fault that left no trace in these was none.
    """

    seed: int
    history: History = field(repr=False)
    done: int
    unknown: int
    unsent: int
    breaks: int
    expired: int

    @property
    def first(self) -> int:
        """The revision that the first watcher began after."""
        return self.history.streams[0].told[0].revision

    def mostly_succeeded(self) -> None:
        operations = len(self.history.operations)
        assert operations >= OPERATIONS
        assert self.done > operations * 0.6, self
        assert self.unknown < operations * 0.1, self


def spread(count: int) -> list[int]:
    """Counts of operations for so many faults: seeded, in order, away from both ends."""
    rand = random.Random(f"{SEED}-faults")
    room = OPERATIONS * 0.8 / count
    return [int(OPERATIONS * 0.1 + room * (n + rand.random() * 0.7)) for n in range(count)]


async def run(servers: Sequence[Server], faults: Sequence[Fault]) -> Report:
    """Run clients, watchers and faults, and let the watchers hear of a last write.

    A fault heals what it broke before it returns. `AssertionError` for anything that no correct
    server does; the seed is noted on every failure.
    """
    try:
        return await _run(servers, faults)
    except Exception as error:
        error.add_note(f"NETPOL_FAULT_SEED={SEED} NETPOL_FAULT_OPERATIONS={OPERATIONS}")
        raise


async def _run(servers: Sequence[Server], faults: Sequence[Fault]) -> Report:
    recorder = Recorder()
    workload = Workload(servers, SEED, OPERATIONS, recorder)
    watchers = [
        Watcher(
            f"w{number}",
            servers,
            recorder,
            first=number,
            colour=COLOURS[number] if number < SELECTING else "",
        )
        for number in range(WATCHERS)
    ]
    watching = [asyncio.create_task(w.run(), name=w.name) for w in watchers]
    try:
        async with asyncio.timeout(LONGEST):
            while not all(watcher.reached for watcher in watchers):
                await asyncio.sleep(0.01)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(workload.run())
                tasks.create_task(_inject(faults, Ongoing(workload, watchers, recorder)))
            end = await _last_writes(servers, recorder)
            await _caught_up(watchers, watching, end)
    finally:
        for task in watching:
            task.cancel()
        ended = await asyncio.gather(*watching, return_exceptions=True)
    for outcome in ended:
        if isinstance(outcome, Exception):
            raise outcome
    history = History(tuple(recorder.operations), tuple(w.stream() for w in watchers), end)
    found = violations(history)
    assert not found, f"{len(found)} violations:\n" + "\n".join(found[:SHOWN])
    return Report(
        seed=SEED,
        history=history,
        done=recorder.count(Outcome.DONE),
        unknown=recorder.count(Outcome.UNKNOWN),
        unsent=workload.unsent,
        breaks=sum(watcher.breaks for watcher in watchers),
        expired=sum(watcher.expired for watcher in watchers),
    )


async def _inject(faults: Sequence[Fault], ongoing: Ongoing) -> None:
    for fault in faults:
        await ongoing.workload.reached(fault.at)
        await fault.act(ongoing)


async def _last_writes(servers: Sequence[Server], recorder: Recorder) -> int:
    """An object that changes its colour, then a list: the revision of the change.

    Every watcher is told of that: it leaves the one selection and enters the other.
    """
    client = Client(servers)
    try:
        for attempt in range(ATTEMPTS):
            # Each try has a name of its own, for the one before may be there.
            with suppress(NotSent):
                _, changed, listed = [
                    await policies.perform(
                        client,
                        recorder,
                        name="end",
                        kind=kind,
                        key=f"last-{attempt}",
                        value=f"end-{attempt}-{colour}",
                    )
                    for kind, colour in zip(LAST, (*COLOURS, ""), strict=True)
                ]
                if changed.outcome is listed.outcome is Outcome.DONE:
                    return changed.found[0].revision
            await asyncio.sleep(0.05)
        raise AssertionError("the server does not serve any more")
    finally:
        client.close()


async def _caught_up(
    watchers: Sequence[Watcher], watching: Sequence["asyncio.Task[None]"], end: int
) -> None:
    """Wait until all have heard of the end, or have ended; what one lacks is for the checker."""
    waited = asyncio.get_running_loop().time() + CATCH_UP
    while asyncio.get_running_loop().time() < waited:
        ready = (w.reached >= end or t.done() for w, t in zip(watchers, watching, strict=True))
        if all(ready):
            return
        await asyncio.sleep(0.02)
