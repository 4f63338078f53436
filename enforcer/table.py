"""The table in the kernel, kept equal to a ruleset.

A table that is there is adopted: it is read, and only what differs is sent. One of another version,
or one that cannot be mended in place, is replaced by a second one that is complete before the first
is deleted, so that packets are judged at every moment.
"""

import errno
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from enforcer.diff import Incompatible, diff
from enforcer.nft.batch import DORMANT, OWNER, PERSIST
from enforcer.nft.dump import Table as Found
from enforcer.nft.kernel import Kernel, KernelError
from enforcer.ruleset import COMMENT, OURS, TABLE, Change, Ruleset

LOCK = "\0netpol-enforcer"  # a name of the network namespace, free when its holder ends


class Taken(Exception):
    """Another enforcer programs this network namespace."""


class Table:
    """`name` is empty until the first `load`."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.name = ""
        self.flags: tuple[str, ...] = ()
        self._lock: socket.socket | None = None

    async def lock(self) -> None:
        """Be the only enforcer of the namespace. `Taken`."""
        if self._lock is None:
            self._lock = await self.kernel.inside(_locked)

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def found(self) -> list[Found]:
        """Our tables, whatever their version."""
        return [item for item in await self.kernel.tables() if item.comment.startswith(OURS)]

    async def hold(self) -> bool:
        """Own what is there, so that nobody changes it meanwhile. Whether there is a table of ours.

        `Taken`.
        """
        ours = await self._free_to_take()
        for item in ours:
            if self.kernel.owned and item.owner == 0 and item.flags & PERSIST:
                await self.kernel.take(item.name)
        return bool(ours)

    async def load(self, rules: Ruleset) -> Change:
        """Make the kernel equal to the ruleset, whatever it holds; what had to be changed.

        `Taken`.
        """
        ours = await self._free_to_take()
        change = None
        for item in sorted(ours, key=lambda item: item.name != self.name):
            change = await self._adopt(item, rules)
            if change is not None:
                break
        if change is None:
            change = diff_from_nothing(rules)
            self.name = _free(item.name for item in await self.kernel.tables())
            await self.kernel.create(self.name, change)
        for item in ours:
            if item.name != self.name:
                await self.kernel.delete(item.name)
        owned = self.kernel.owned
        self.flags = ("owner", "persist") if owned else ()
        return change

    async def commit(self, change: Change, rules: Ruleset) -> None:
        """One step of the compiler."""
        await self.kernel.commit(self.name, change, rules.sets | dict(change.sets))

    async def verify(self, rules: Ruleset) -> Change:
        """What would have to be changed. All of it, where the table is gone or dormant."""
        flags = {item.name: item.flags for item in await self.found()}
        if flags.get(self.name, DORMANT) & DORMANT:
            return diff_from_nothing(rules)
        try:
            return diff(await self.kernel.held(self.name), rules)
        except Incompatible:
            return diff_from_nothing(rules)

    async def close(self, rules: Ruleset) -> None:
        """Let nothing in to isolated pods until an enforcer is here again. The ruleset changes."""
        for family in "46":
            for address in rules.sets[f"iso{family}"].elements:
                rules.put(f"pods{family}", address, "drop")
        await self.load(rules)

    async def remove(self) -> bool:
        """Delete all of our tables: all traffic passes. Whether there was one."""
        ours = await self.found()
        for item in ours:
            try:
                await self.kernel.delete(item.name)
            except KernelError as error:
                if error.code != errno.EPERM or item.owner in (0, self.kernel.port):
                    raise
                raise Taken(
                    f"table {item.name} belongs to {_process(item.owner)}: stop that first"
                ) from None
        return bool(ours)

    async def _free_to_take(self) -> list[Found]:
        """Our tables. `Taken` where one belongs to another process."""
        ours = await self.found()
        for item in ours:
            if item.owner not in (0, self.kernel.port):
                raise Taken(
                    f"table {item.name} belongs to {_process(item.owner)}; one enforcer programs a"
                    " network namespace: stop that one first"
                )
        return ours

    async def _adopt(self, item: Found, rules: Ruleset) -> Change | None:
        """Take a table over and mend it; None where a new one is needed."""
        kernel = self.kernel
        if item.comment != COMMENT or item.flags & DORMANT:
            return None
        if kernel.owned and item.owner == 0:
            if not item.flags & PERSIST:
                return None
            await kernel.take(item.name)
        elif not kernel.owned and item.flags & (OWNER | PERSIST):
            return None
        try:
            change = diff(await kernel.held(item.name), rules)
        except Incompatible:
            return None
        if change:
            await kernel.commit(item.name, change, rules.sets | dict(change.sets))
        self.name = item.name
        return change


def diff_from_nothing(rules: Ruleset) -> Change:
    """All of a ruleset as a change."""
    elements = {name: made.elements for name, made in rules.sets.items() if made.elements}
    return Change(sets=dict(rules.sets), chains=dict(rules.chains), added=elements)


def _free(names: Iterator[str]) -> str:
    taken = set(names)
    number, name = 1, TABLE
    while name in taken:
        number += 1
        name = f"{TABLE}_{number}"
    return name


def _locked() -> socket.socket:
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        lock.bind(LOCK)
        lock.listen(1)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or _held_by_us():
            lock.close()
            if error.errno != errno.EADDRINUSE:
                raise
            raise Taken(
                "another enforcer programs this network namespace: stop that one first"
            ) from None
    return lock


def _held_by_us() -> bool:
    """Whether an enforcer has the name. Anybody can take it, and must not keep us out by that."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as question:
        question.setblocking(False)
        try:
            question.connect(LOCK)
        except BlockingIOError:
            return True  # its queue is full, and nobody says whose it is
        except OSError:
            return False
        peer = question.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    uid = int.from_bytes(peer[4:8], sys.byteorder)
    return uid == os.geteuid()


def _process(port: int) -> str:
    """The process behind a netlink port, which is its number where it opened one socket only."""
    try:
        return f"{Path(f'/proc/{port}/comm').read_text().strip()}[{port}]"
    except OSError:
        return f"another process (netlink port {port})"
