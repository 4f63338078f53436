"""Pods that are being started: what a claim of the CNI plugin means for the ruleset.

The API tells a pod's addresses only after it has started, so a claim gives them to the model; the
pod may start once a commit has put its rules in force.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from enforcer.cni.claim import Claim, Refused
from enforcer.index import Key
from enforcer.model import Given, Model


class Starts:
    """`wake` asks for a commit; `enforced` is to be called after each."""

    def __init__(self, model: Model, *, node: str, wake: Callable[[], None]) -> None:
        self._model = model
        self._node = node
        self._wake = wake
        self._next: asyncio.Future[None] | None = None

    async def programmed(self, claim: Claim) -> None:
        """Return when the kernel holds the pod's rules. `Refused` for a pod that is elsewhere."""
        since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        interfaces = {claim.interface: claim.ips}
        given = Given(claim.uid, claim.container_id, since, interfaces)
        try:
            self._model.give(_key(claim), given)
        except ValueError as error:
            raise Refused(str(error)) from None
        self._wake()
        while True:
            # Only a commit that begins from here on has it in force for sure.
            await self._commit()
            if self._in_force(claim):
                return

    def released(self, claim: Claim) -> None:
        """The sandbox's addresses are free again."""
        self._model.take_back(_key(claim), claim.container_id, claim.interface)
        self._wake()

    def enforced(self) -> None:
        """The kernel holds all that the model says."""
        if self._next is not None:
            self._next.set_result(None)
            self._next = None

    async def _commit(self) -> None:
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._next)

    def _in_force(self, claim: Claim) -> bool:
        pod = self._model.pod(_key(claim), claim.uid)
        if pod is None:
            return False
        if self._node and not pod.node:
            return False  # it is bound, or it would not start: the watch is late
        if self._node and pod.node != self._node:
            raise Refused(f"{pod.namespace}/{pod.name} is on node {pod.node}, not {self._node}")
        compiler = self._model.compiler
        return not compiler.dirty and all(
            compiler.index.owner(address) is pod for address in claim.ips
        )


def _key(claim: Claim) -> Key:
    return claim.namespace, claim.name
