"""An informer that we did not write, as a process, with all that it says it was told."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.informers.proxy import Proxy

NODE = Path(__file__).parent / "node"
COMMANDS = {
    "official": (sys.executable, "-m", "tests.informers.official"),
    "light": (sys.executable, "-m", "tests.informers.light"),
    "node": ("node", str(NODE / "informer.mjs")),
}

Told = dict[str, Any]


class Informer:
    """What a client holds and was told. It watches through a proxy of its own.

    `state` is the client's own cache where it has one, else what its list and events add up to.
    """

    def __init__(self, name: str, server: str) -> None:
        self.name = name
        self.proxy = Proxy(server)
        self.told: list[Told] = []
        self.state: dict[str, int] = {}
        self._moved = asyncio.Condition()

    @asynccontextmanager
    async def running(self, folder: Path) -> AsyncIterator["Informer"]:
        """Run until left; it has made its first list when this is entered."""
        with (folder / f"{self.name}.err").open("ab") as errors:
            async with self.proxy.serving():
                process = await asyncio.create_subprocess_exec(
                    *COMMANDS[self.name],
                    self.proxy.url,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=errors,
                    limit=1 << 22,
                )
                reading = asyncio.create_task(self._read(process), name=self.name)
                try:
                    await self.until(lambda: self.lists == 1)
                    yield self
                finally:
                    if process.returncode is None:
                        process.kill()
                    await process.wait()
                    await reading

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait for what comes with something that it is told; `AssertionError` after 30 s."""
        try:
            async with asyncio.timeout(30), self._moved:
                await self._moved.wait_for(true)
        except TimeoutError:
            raise AssertionError(f"{self.name} stops after {self.told[-3:]}") from None

    @property
    def lists(self) -> int:
        return sum(line["type"] == "LIST" for line in self.told)

    def watched(self, number: int = 1) -> list[Told]:
        """The changes it was told after its list of that number, up to the next.

        client-node first tells the list itself as changes, which are not newer than the list.
        """
        count, position, found = 0, 0, list[Told]()
        for line in self.told:
            if line["type"] == "LIST":
                count, position = count + 1, line["version"]
            elif line["type"] == "ERROR" or count != number:
                continue
            elif self.name != "node" or found or line["version"] > position:
                found.append({k: line[k] for k in ("type", "key", "version")})
        return found

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for text in process.stdout:
            line = json.loads(text)
            async with self._moved:
                self._take(line)
                self._moved.notify_all()

    def _take(self, line: Told) -> None:
        self.told.append(line)
        if line["type"] == "LIST":
            self.state = dict(line["items"])
        elif "cache" in line:
            self.state = line["cache"]
        elif line["type"] == "DELETED":
            self.state.pop(line["key"], None)
        elif line["type"] in ("ADDED", "MODIFIED"):
            self.state[line["key"]] = line["version"]
