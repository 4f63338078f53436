"""Run nft commands in one network namespace, each as one transaction.

The only module that imports nftables. A thread of its own lives in the namespace, so the API
connection stays in the process's own; libnftables and its netlink socket are used by it alone.
"""

import asyncio
import ctypes
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nftables

CLONE_NEWNET = 0x40000000
NAMED = Path("/run/netns")


class KernelError(Exception):
    """The kernel or libnftables refused a transaction; nothing of it took effect."""


class Kernel:
    """`netns` is a name of `ip netns`, a path, or empty for the process's own namespace.

    `private` makes a new namespace, which goes with the object: for trying a ruleset out.
    """

    def __init__(self, *, netns: str = "", private: bool = False) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nft")
        self._nft: Any = None
        self._netns = netns
        self._private = private

    async def run(self, commands: str) -> None:
        """Commit the commands as one transaction. `KernelError` with nft's own words."""
        if commands:
            await self._call(self._command, commands, False)

    async def has(self, family: str, name: str) -> bool:
        """Whether there is such a table; its content is not read."""
        tables = json.loads(await self._call(self._command, "list tables", True))["nftables"]
        wanted = {"family": family, "name": name}
        return any(wanted.items() <= item.get("table", {}).items() for item in tables)

    async def table(self, family: str, name: str) -> list[dict[str, Any]] | None:
        """All objects of a table as libnftables' JSON; None where there is no such table."""
        if not await self.has(family, name):
            return None
        listed = await self._call(self._command, f"list table {family} {name}", True)
        objects: list[dict[str, Any]] = json.loads(listed)["nftables"]
        return objects

    def close(self) -> None:
        """End the thread; the tables stay."""
        self._thread.shutdown()

    async def _call(self, function: Any, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, function, *arguments)

    def _command(self, text: str, as_json: bool) -> str:
        if self._nft is None:
            self._enter()
            self._nft = nftables.Nftables()
        self._nft.set_json_output(as_json)
        code, output, error = self._nft.cmd(text)
        if code:
            raise KernelError("; ".join(error.split("\n")[:3]) or f"nft failed: {code}")
        return str(output)

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if self._private:
            if libc.unshare(CLONE_NEWNET):
                raise KernelError(f"no private namespace: {os.strerror(ctypes.get_errno())}")
        elif self._netns:
            path = self._netns if "/" in self._netns else NAMED / self._netns
            try:
                handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise KernelError(f"network namespace {self._netns}: {error}") from error
            try:
                if libc.setns(handle, CLONE_NEWNET):
                    why = os.strerror(ctypes.get_errno())
                    raise KernelError(f"network namespace {self._netns}: {why}")
            finally:
                os.close(handle)
