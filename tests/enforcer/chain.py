"""A list of CNI plugins, run as libcni runs it."""

import asyncio
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """What a plugin left: its exit status, what it printed, and how many seconds it took."""

    status: int
    text: str
    errors: str
    seconds: float

    @property
    def said(self) -> Json:
        found: Json = json.loads(self.text)
        return found

    @property
    def result(self) -> Json:
        assert self.status == 0, self.text + self.errors
        return self.said

    @property
    def code(self) -> int:
        """Of the error, which is complete."""
        assert self.status == 1, self.text + self.errors
        said = self.said
        assert (
            {"cniVersion", "code", "msg"} <= said.keys() <= {"cniVersion", "code", "msg", "details"}
        )
        return int(said["code"])


class Failed(Exception):
    def __init__(self, plugin: str, done: Done) -> None:
        super().__init__(plugin, done)
        self.done = done


async def run(
    plugin: Path,
    environment: dict[str, str],
    text: bytes,
    *,
    prefix: Sequence[str] = (),
) -> Done:
    """A plugin has just the variables that CNI gives it, and a PATH."""
    begun = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *prefix,
        str(plugin),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], **environment},
    )
    try:
        async with asyncio.timeout(30):
            out, errors = await process.communicate(text)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), errors.decode(), time.monotonic() - begun)


@dataclass(slots=True)
class Chain:
    """One attachment to one network. `path` has the plugins; `prefix` enters the node."""

    network: Json
    path: Sequence[Path]
    environment: dict[str, str]
    prefix: Sequence[str] = ()
    ran: list[tuple[str, str]] = field(default_factory=list)
    cached: Json | None = None

    async def add(self) -> Json:
        result: Json | None = None
        for plugin in self.network["plugins"]:
            result = (await self._run("ADD", plugin, result)).said
        assert result is not None
        self.cached = result
        return result

    async def check(self) -> None:
        for plugin in self.network["plugins"]:
            await self._run("CHECK", plugin, self.cached)

    async def delete(self) -> None:
        for plugin in reversed(self.network["plugins"]):
            await self._run("DEL", plugin, self.cached)
        self.cached = None

    async def _run(self, verb: str, plugin: Json, result: Json | None) -> Done:
        network = {key: self.network[key] for key in ("cniVersion", "name")}
        given = {**plugin, **network, **({"prevResult": result} if result else {})}
        (file,) = (f / plugin["type"] for f in self.path if (f / plugin["type"]).exists())
        places = ":".join(str(place) for place in self.path)
        environment = {**self.environment, "CNI_COMMAND": verb, "CNI_PATH": places}
        done = await run(file, environment, json.dumps(given).encode(), prefix=self.prefix)
        self.ran.append((verb, plugin["type"]))
        if done.status:
            raise Failed(plugin["type"], done)
        return done
