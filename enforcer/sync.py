"""Keep the kernel equal to the model: coalesce, compile, commit the difference, try again.

Nothing is committed before all three resources are complete; until then the table that is there
stays, or after a reboot the last one that was saved. When a commit fails the old state stays, and
the next attempt starts from what the kernel holds. Stopping leaves the table in place.
"""

import asyncio
import gc
import random
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from enforcer import fetch, saved
from enforcer.cni.starts import Starts
from enforcer.compile import Compiler
from enforcer.diff import differences
from enforcer.fetch import Connection
from enforcer.model import POLICIES, RESOURCES, Model, conflicts
from enforcer.nft import events
from enforcer.nft.kernel import KernelError
from enforcer.reflector import Apply, Replace
from enforcer.ruleset import Change, Ruleset
from enforcer.table import Table
from enforcer.telemetry.status import Status

COALESCE = 0.005  # seconds that one change waits for others: half of the bound of 10 ms
RETRY = (0.2, 10.0)  # seconds after a failed commit: first and longest
AT_ONCE = 200  # addresses that are compiled without a pause: some 20 ms
SAVE = 5.0  # seconds between two savings: what a crash of the machine may have missed
SHOWN = 5  # differences in a log line

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Culprit:
    """Who changed the table; 0 where that is not known."""

    pid: int
    program: str


class Enforcer:
    """Follows API servers, one a resource, and programs one network namespace.

    `verify_every` is in seconds. `state` is where the ruleset is saved, if anywhere.
    """

    def __init__(
        self,
        *,
        sources: Mapping[str, Connection],
        table: Table,
        compiler: Compiler,
        status: Status,
        node: str,
        rand: random.Random,
        apart: frozenset[str] = frozenset(),
        state: Path | None = None,
        verify_every: float = 600.0,
    ) -> None:
        self._sources = sources
        self._table = table
        self._compiler = compiler
        self._status = status
        self._node = node
        self._rand = rand
        self._state = state
        self._every = verify_every
        self._model = Model(compiler, apart=apart)
        self.starts = Starts(self._model, node=node, wake=self._wake)
        self._awake = asyncio.Event()
        self._relist = asyncio.Event()
        self._telling = asyncio.Lock()
        self._heard: float | None = None  # when the oldest change that is not committed was heard
        self._loaded = False  # the kernel holds what was committed last
        self._working = False  # the rules go on; the kernel does not hold them yet
        self._verify = False
        self._culprit: Culprit | None = None
        self._unsaved = asyncio.Event()
        self._refused: set[str] = set()  # policies that have been told of in the log
        self._others: socket.socket | None = None

    async def run(self) -> None:
        """Until cancelled. `Taken` where another enforcer is here."""
        await self._table.lock()
        await self._begin()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow_all(), name="follow")
                tasks.create_task(self._commit_all(), name="commit")
                tasks.create_task(self._verify_all(), name="verify")
                if self._state is not None:
                    tasks.create_task(self._save_all(self._state), name="save")
        finally:
            self._table.unlock()
            if self._others is not None:
                asyncio.get_running_loop().remove_reader(self._others)
                self._others.close()

    def reread(self) -> None:
        """List everything again, and compare the kernel with it."""
        self._relist.set()
        self.verify()

    def verify(self) -> None:
        """Compare the kernel with what it should hold, and mend it."""
        self._verify = True
        self._awake.set()

    @property
    def rules(self) -> Ruleset | None:
        """What is committed; None before the first commit."""
        return self._compiler.rules if self._status.complete else None

    def _wake(self) -> None:
        if self._heard is None:
            self._heard = time.monotonic()
        self._awake.set()

    async def _begin(self) -> None:
        """What packets meet until everything is known for the first time."""
        try:
            there = await self._table.hold()
        except KernelError as error:
            log.error("the table cannot be taken over yet", error=str(error))
            there = True
        if there:
            log.info("the ruleset in the kernel stays until everything has been listed")
            return
        found = saved.read(self._state) if self._state is not None else None
        if found is None:
            log.warning("there is no ruleset yet: traffic passes until everything has been listed")
            return
        rules, when = found
        try:
            await self._table.load(rules)
        except (KernelError, ValueError) as error:
            log.error("the saved ruleset cannot be loaded: traffic passes", error=str(error))
            return
        self._status.restored(when)
        log.info("the saved ruleset holds until everything has been listed", saved=round(when))

    async def _follow_all(self) -> None:
        """The followers; started anew when everything is to be listed again."""
        while True:
            self._relist.clear()
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(self._follow(resource), name=f"follow {resource}")
                    for resource in RESOURCES
                ]
                await self._relist.wait()
                log.info("everything is listed again")
                async with self._telling:  # no list is left half taken in
                    for task in running:
                        task.cancel()

    async def _follow(self, resource: str) -> None:
        status, model = self._status, self._model

        async def tell(output: Replace | Apply) -> None:
            was_synced = model.synced
            async with self._telling:
                for _ in model.pieces(resource, output):
                    if model.halfway:
                        await asyncio.sleep(0)
            if isinstance(output, Replace):
                status.synced(resource)
            status.heard(resource, model.revisions[resource])
            if resource == POLICIES:
                self._say_invalid()
            if model.synced and not was_synced:
                log.info("synced")
            self._wake()

        def report(server: str, error: str) -> None:
            status.following(resource, not error, error, server=server)

        await fetch.follow(self._sources[resource], resource, tell, rand=self._rand, report=report)

    async def _commit_all(self) -> None:
        delay = RETRY[0]
        while True:
            await self._awake.wait()
            await asyncio.sleep(COALESCE)
            self._awake.clear()
            if not self._model.synced or self._model.halfway:
                continue
            try:
                await self._commit()
                delay = RETRY[0]
            except KernelError as error:
                log.error("commit failed; the old state stays", error=str(error))
                self._status.commit_failed(str(error))
                self._loaded = False
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY[1])
                self._awake.set()

    async def _commit(self) -> None:
        """One attempt. `KernelError`."""
        status, rules = self._status, self._compiler.rules
        status.committing()
        if self._loaded:
            # Before the rules go on: what was committed last is what the kernel should hold.
            await self._check()
        begun, self._working = time.monotonic(), True
        await self._work()
        heard, self._heard = self._heard, None
        revisions = dict(self._model.revisions)
        try:
            change = self._compiler.take()
            computed = time.monotonic()
            if not self._loaded:
                change = await self._table.load(rules)
                self._say_mended(change)
            elif change:
                await self._table.commit(change, rules)
        except KernelError:
            self._heard = heard
            raise
        done = time.monotonic()
        first = not status.complete
        self._loaded, self._working = True, False
        if not change and not first:
            status.unchanged(revisions)
        else:
            self._tell(change, revisions, computed - begun, done - computed, heard, done)
        if first:
            gc.freeze()  # looking through all that stays would hold up a commit by some 100 ms
            if not self._table.flags:
                await self._watch_others()
            self._say_first()
        self.starts.enforced()

    async def _work(self) -> None:
        """Compile much of what there is, and let others run meanwhile."""
        while self._compiler.dirty > AT_ONCE or self._model.halfway:
            if not self._model.halfway:
                self._compiler.work(AT_ONCE)
            await asyncio.sleep(0)

    def _tell(
        self,
        change: Change,
        revisions: Mapping[str, str],
        compute: float,
        commit: float,
        heard: float | None,
        done: float,
    ) -> None:
        """Say what was committed, in the log and in the status."""
        status, rules = self._status, self._compiler.rules
        status.table(self._table.name, self._table.flags)
        status.conflicts(conflicts(self._compiler))
        self._say_invalid()
        pods = self._model.protected
        status.committed(
            revisions,
            digest=rules.digest(),
            pods=pods,
            policies=self._model.policies,
            elements=rules.size,
            compute_seconds=compute,
            commit_seconds=commit,
            oldest_event_seconds=None if heard is None else done - heard,
            changed=change.elements,
            classes=len(self._compiler.classes),
        )
        self._unsaved.set()
        if change:
            log.info(
                "committed",
                elements=change.elements,
                chains=len(change.chains) + len(change.gone_chains),
                pods=pods,
                digest=rules.digest(),
                milliseconds=round((compute + commit) * 1000, 1),
            )

    def _say_invalid(self) -> None:
        """The policies that grant nothing: wrong ones, and those that are too much for a pod."""
        found = {"/".join(key): str(error) for key, error in self._model.invalid.items()}
        for names, why in self._compiler.too_large.values():
            found.update(dict.fromkeys(names, why))
        for name in found.keys() - self._refused:
            log.warning("policy is invalid and grants nothing", policy=name, errors=found[name])
        self._refused = set(found)
        self._status.invalid(found)

    def _say_first(self) -> None:
        flags = ", ".join(self._table.flags) or "none: this kernel lets others change it"
        log.info("enforcing", node=self._node or "(every pod)", table=self._table.name, flags=flags)
        if others := self._model.strangers(self._node):
            log.warning(
                "no pod is on this node, so none is protected; is --node-name right?",
                node=self._node,
                others=others[:5],
            )

    async def _check(self) -> None:
        """Where it is time, or somebody was at the table: compare, and mend. `KernelError`."""
        culprit, self._culprit = self._culprit, None
        due, self._verify = self._verify, False
        if not due and culprit is None:
            return
        rules = self._compiler.rules
        try:
            found = differences(await self._table.verify(rules))
            self._status.verified(not found, found[:SHOWN])
            if found:
                await self._table.load(rules)
        except KernelError:
            self._culprit, self._verify = self._culprit or culprit, True
            raise
        if found:
            # Who it was may be heard after it was found; that will be looked into once more.
            self._say_repaired(culprit or self._culprit, found)

    def _say_mended(self, change: Change) -> None:
        """The kernel was made equal to the rules, and that is a comparison as well."""
        culprit, self._culprit = self._culprit, None
        self._verify = False
        if culprit is not None and change:
            self._say_repaired(culprit, differences(change))

    def _say_repaired(self, culprit: Culprit | None, found: list[str]) -> None:
        who = culprit or Culprit(0, "")
        self._status.table(self._table.name, self._table.flags)
        self._status.repaired(who.pid, who.program, "; ".join(found[:SHOWN]))
        log.error(
            "somebody changed the table; it is as it should be again",
            reason="TableChanged",
            pid=who.pid or "(not known)",
            program=who.program or "(not known)",
            differences=len(found),
            first=found[:SHOWN],
        )

    async def _watch_others(self) -> None:
        """Hear of what other processes do to a table that we cannot own."""

        def changed(pid: int, program: str) -> None:
            self._culprit = Culprit(pid, program)
            self._awake.set()

        kernel = self._table.kernel
        try:
            self._others = await kernel.inside(events.open_socket)
        except OSError as error:
            log.error("changes by others are seen by the verification only", error=str(error))
            return
        watch = events.Watch(self._others, lambda: self._table.name, kernel.port, changed)
        asyncio.get_running_loop().add_reader(self._others, watch.read)
        self.verify()  # who was there before we listened

    async def _verify_all(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            self.verify()

    async def _save_all(self, path: Path) -> None:
        """Save what is in force, some seconds after it has changed, and at the end."""
        try:
            while True:
                await self._unsaved.wait()
                await asyncio.sleep(SAVE)
                self._unsaved.clear()
                if self._working:
                    self._unsaved.set()
                elif self._loaded:
                    content = saved.encoded(self._compiler.rules)
                    await asyncio.to_thread(_save, path, content)
        finally:
            if self._unsaved.is_set() and self._loaded and not self._working:
                _save(path, saved.encoded(self._compiler.rules))


def _save(path: Path, content: bytes) -> None:
    try:
        saved.write(path, content)
    except OSError as error:
        log.error("the ruleset cannot be saved", file=str(path), error=str(error))


async def desired(sources: Mapping[str, Connection], compiler: Compiler) -> Ruleset:
    """The ruleset for the servers' present state, for the commands that do not stay."""
    model = Model(compiler)
    for resource in RESOURCES:
        for error in model.tell(resource, await fetch.snapshot(sources[resource], resource)):
            log.warning("policy is invalid and grants nothing", errors=str(error))
    compiler.take()
    return compiler.rules
