"""An enforcer of a test's own in the lab, for one policy: `front` may reach `back` on port 80."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from tests.lab.agents import Probe
from tests.netns.conftest import PODS, Lab, rule, spec

FRONT, BACK, OTHER = PODS
TCP80 = rule({"pods": {"role": "front"}}, ports=[{"port": 80}])
ALLOWED = [Probe("front", ip, "tcp", 80) for ip in BACK.ips]
DENIED = [
    Probe("other", BACK.ips[0], "tcp", 80),
    Probe("outside", BACK.ips[1], "tcp", 80),
    Probe("front", BACK.ips[0], "udp", 80),
]
OPEN = [Probe("front", OTHER.ips[0], "tcp", 80), Probe("node", BACK.ips[0], "tcp", 80)]
OWNED = ("--canary", "off")
SHARED = ("--share-table", *OWNED)


async def isolated(lab: Lab) -> None:
    """Not heard by anyone yet."""
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", TCP80))


@contextlib.asynccontextmanager
async def running(
    vacant: Lab, folder: Path, *arguments: str, prefix: tuple[str, ...] = ()
) -> AsyncIterator[Lab]:
    lab = vacant.other(folder, *arguments, prefix=prefix)
    await isolated(lab)
    try:
        await lab.enforcer.start()
        yield lab
    finally:
        await lab.enforcer.stop()


async def judged(lab: Lab, *, allowed: bool = True, denied: bool = False) -> None:
    """What passes of that which the policy allows, and of that which it denies."""
    have = await lab.agents.probe([*ALLOWED, *DENIED, *OPEN])
    want = {
        **dict.fromkeys(ALLOWED, allowed),
        **dict.fromkeys(DENIED, denied),
        **dict.fromkeys(OPEN, True),
    }
    assert have == want


async def told(lab: Lab, path: str) -> str:
    """What the enforcer answers, whatever the status."""
    async with httpx.AsyncClient(trust_env=False) as http:
        return (await http.get(f"{lab.enforcer.url}{path}")).text


async def status(lab: Lab) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False) as http:
        found: dict[str, Any] = (await http.get(f"{lab.enforcer.url}/status")).json()
        return found


async def metric(lab: Lab, name: str) -> float:
    text = await told(lab, "/metrics")
    (found,) = re.findall(rf"(?m)^netpol_enforcer_{re.escape(name)} (\S+)$", text)
    return float(found)


async def nft(lab: Lab, *words: str, text: str = "") -> tuple[int, int, str]:
    """Its process id, exit status and words."""
    process = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", lab.world.node.netns, "nft", *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate(text.encode())
    assert process.returncode is not None
    return process.pid, process.returncode, output.decode()
