"""Keep the kernel equal to the model: coalesce, compile, commit the difference, try again.

Nothing is committed before all three resources are complete. When a commit fails the old state
stays, and the next attempt starts from what the kernel holds. Stopping leaves the table in place.
"""

import asyncio
import random
import time
from collections.abc import Iterable, Mapping

import structlog

from enforcer import fetch
from enforcer.compile import compile_ruleset
from enforcer.diff import diff
from enforcer.fetch import Connection
from enforcer.model import RESOURCES, Model
from enforcer.nft import dump
from enforcer.nft.kernel import Kernel, KernelError
from enforcer.reflector import Apply, Replace
from enforcer.ruleset import FAMILY, TABLE, Ruleset

COALESCE = 0.005  # seconds that one change waits for others: half of the bound of 10 ms
RETRY = (0.2, 10.0)  # seconds after a failed commit: first and longest

log = structlog.get_logger()


class Enforcer:
    """Follows API servers, one a resource, and programs one network namespace."""

    def __init__(
        self,
        *,
        sources: Mapping[str, Connection],
        kernel: Kernel,
        node: str,
        pod_cidrs: Iterable[str],
        rand: random.Random,
    ) -> None:
        self._sources = sources
        self._kernel = kernel
        self._node = node
        self._pod_cidrs = tuple(pod_cidrs)
        self._rand = rand
        self._model = Model()
        self._heard = asyncio.Event()
        self._committed: Ruleset | None = None
        self._adopted = False

    async def run(self) -> None:
        """Until cancelled. A task group owns the followers and the committer."""
        await self._look()
        async with asyncio.TaskGroup() as tasks:
            for resource in RESOURCES:
                tasks.create_task(self._follow(resource), name=f"follow {resource}")
            tasks.create_task(self._commit_all(), name="commit")

    async def _look(self) -> None:
        """Say what packets meet until everything is known for the first time."""
        try:
            there = await self._kernel.has(FAMILY, TABLE)
        except KernelError as error:
            log.error("the kernel cannot be asked", error=str(error))
            return
        if there:
            log.info("the ruleset in the kernel stays until everything has been listed")
        else:
            log.warning("there is no ruleset yet: traffic passes until everything has been listed")

    async def _follow(self, resource: str) -> None:
        def tell(output: Replace | Apply) -> None:
            was_synced = self._model.synced
            for error in self._model.tell(resource, output):
                log.warning("policy is invalid and grants nothing", errors=str(error))
            if self._model.synced and not was_synced:
                log.info("synced")
            self._heard.set()

        await fetch.follow(self._sources[resource], resource, tell, rand=self._rand)

    async def _commit_all(self) -> None:
        delay = RETRY[0]
        while True:
            await self._heard.wait()
            await asyncio.sleep(COALESCE)
            self._heard.clear()
            if not self._model.synced or not (self._model.changed or not self._adopted):
                continue
            self._model.changed = False
            try:
                await self._commit()
                delay = RETRY[0]
            except (KernelError, dump.ForeignTable) as error:
                log.error("commit failed; the old state stays", error=str(error))
                self._model.changed, self._adopted = True, False
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY[1])
                self._heard.set()

    async def _commit(self) -> None:
        begun = time.monotonic()
        if not self._adopted:
            objects = await self._kernel.table(FAMILY, TABLE)
            self._committed = None if objects is None else dump.read(objects)
        want = compile_ruleset(self._model.cluster(), node=self._node, pod_cidrs=self._pod_cidrs)
        transaction = diff(self._committed, want)
        if transaction:
            await self._kernel.run(transaction.text())
        first, self._adopted, self._committed = not self._adopted, True, want
        if transaction:
            log.info(
                "committed",
                commands=len(transaction.commands),
                elements=transaction.elements,
                pods=len(want.maps["pods4"].elements) + len(want.maps["pods6"].elements),
                digest=want.digest(),
                milliseconds=round((time.monotonic() - begun) * 1000, 1),
            )
        if first:
            log.info("enforcing", node=self._node or "(every pod)")
            if others := self._model.strangers(self._node):
                log.warning(
                    "no pod is on this node, so none is protected; is --node-name right?",
                    node=self._node,
                    others=others[:5],
                )


async def desired(
    sources: Mapping[str, Connection], *, node: str, pod_cidrs: Iterable[str]
) -> Ruleset:
    """The ruleset for the servers' present state, for the commands that do not stay."""
    model = Model()
    for resource in RESOURCES:
        for error in model.tell(resource, await fetch.snapshot(sources[resource], resource)):
            log.warning("policy is invalid and grants nothing", errors=str(error))
    return compile_ruleset(model.cluster(), node=node, pod_cidrs=pod_cidrs)
