"""A steady flood in both directions, and everything that an enforcer goes through meanwhile."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from enforcer.nft.kernel import Kernel
from tests.lab.cluster import NODE_NAME, POLICIES, PodSpec
from tests.lab.floods import Floods, Plan
from tests.netns.conftest import PODS, Lab, command, rule, spec

FRONT, BACK, OTHER = PODS
PORT = 9000
OPEN = rule({"pods": {"role": "front"}}, ports=[{"port": PORT}, {"port": PORT, "protocol": "UDP"}])
CHANGES = 1000
AT_ONCE = 8  # requests


@asynccontextmanager
async def flooded(lab: Lab) -> AsyncIterator[Floods]:
    """`front` may reach `back`; `other`, `outside` and the way back may not."""
    hosts = lab.world.hosts
    to_back = tuple((ip, PORT) for ip in BACK.ips)
    plans = {
        hosts["back"]: Plan(listen=(PORT,), datagrams=((FRONT.ips[0], PORT),)),
        hosts["front"]: Plan(listen=(PORT,), datagrams=to_back, streams=to_back),
        hosts["other"]: Plan(datagrams=to_back, streams=to_back[:1]),
        hosts["outside"]: Plan(datagrams=to_back[:1], streams=to_back[1:]),
    }
    async with Floods(plans) as floods:
        yield floods


async def account(floods: Floods, *, at_least: int) -> None:
    """No allowed datagram or byte lost, no forbidden one passed."""
    told = await floods.accounts()
    front = told["front"]
    want = {}
    for ip, own in zip(BACK.ips, FRONT.ips, strict=True):
        flow, stream = front["datagrams"][f"{ip} {PORT}"], front["streams"][f"{ip} {PORT}"]
        assert flow["sent"] > at_least
        assert flow == {"sent": flow["sent"], "back": flow["sent"], "astray": 0}
        assert stream["sent"] == stream["back"] > 0
        assert (stream["connected"], stream["broken"]) == (1, 0)
        want[own] = flow["sent"]
    assert told["back"]["received"] == want
    assert front["received"] == {}
    for name in ("back", "other", "outside"):
        for flow in told[name]["datagrams"].values():
            assert flow["sent"] > at_least
            assert flow["back"] == 0
        for stream in told[name]["streams"].values():
            assert stream["connected"] == 0


async def objects(kernel: Kernel, table: str = "netpol") -> Counter[str]:
    """What the kernel holds, by kind; what packets have put there is not counted."""
    held = await kernel.held(table)
    return Counter(
        sets=len(held.sets),
        elements=sum(len(item.elements) for item in held.sets.values()),
        chains=len(held.chains),
        rules=sum(map(len, held.chains.values())),
    )


async def changes(lab: Lab) -> None:
    """A thousand, none of which concerns the flows: pods, labels, policies, all gone at the end."""
    pods, policies = "/api/v1/namespaces/c/pods", f"{POLICIES}/namespaces/c/networkpolicys"
    at_once = asyncio.Semaphore(AT_ONCE)
    await lab.api.namespace("c", labels={"team": "c"})
    await lab.api.isolate("c", "on")

    async def one(number: int) -> None:
        name = f"x{number}"
        ips = (f"10.66.{100 + number // 200}.{number % 200 + 1}", f"fd66::c:{number:x}")
        async with at_once:
            await lab.api.pod(PodSpec("c", name, {"n": name}, ips))
            await lab.api.policy("c", name, spec(None, rule({"pods": {"n": name}})))
            await lab.api.label("c", name, {"more": name})
            await lab.api.delete(f"{pods}/{name}")
            await lab.api.delete(f"{policies}/{name}")

    await asyncio.gather(*(one(number) for number in range(CHANGES // 6)))  # a pod is two
    await lab.api.isolate("c", None)
    await lab.api.delete("/api/v1/namespaces/c")


@pytest.fixture
async def closed(lab: Lab) -> Lab:
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", OPEN))
    await lab.settled()
    return lab


async def test_D07_D39_a_thousand_changes_elsewhere_lose_and_leak_nothing_and_leave_nothing(
    closed: Lab, kernel: Kernel
) -> None:
    before = await objects(kernel)
    async with flooded(closed) as floods:
        await changes(closed)
        await account(floods, at_least=1000)
    await closed.settled()
    assert await objects(kernel) == before


async def test_D08_crashes_and_restarts_lose_and_leak_nothing(closed: Lab) -> None:
    rand = random.Random(8)
    enforcer = closed.enforcer
    async with flooded(closed) as floods:
        for attempt in range(5):
            await (enforcer.kill() if attempt % 3 else enforcer.stop())
            await asyncio.sleep(rand.random() * 0.2)
            await enforcer.begin()
            if attempt % 2:
                await asyncio.sleep(rand.random())
            else:
                await enforcer.until("enforcing")
                # A change is on its way when the next one hits.
                await closed.api.label("b", "other", {"n": f"{attempt}"})
        await enforcer.until("enforcing")
        await account(floods, at_least=1000)
    await closed.check()


async def test_an_upgrade_through_a_second_table_loses_and_leaks_nothing(
    closed: Lab, kernel: Kernel
) -> None:
    """The table of an older version is in force, until the new one is whole."""
    enforcer = closed.enforcer
    server = ("--server", closed.server.url, "--node-name", NODE_NAME)
    _, rendered = await command("render", *server)
    assert "schema=2" in rendered
    older = rendered.replace("schema=2", "schema=1")
    async with flooded(closed) as floods:
        for names, newer in ((("netpol_7", "netpol"), "netpol_2"), (("netpol_7",), "netpol")):
            await enforcer.stop()
            for name in names:
                (current,) = [item.name for item in await kernel.tables()]
                closed.world.nft(older.replace("inet netpol {", f"inet {name} {{"))
                closed.world.nft(f"delete table inet {current}")
            await enforcer.start()
            assert [item.name for item in await kernel.tables()] == [newer]
        await account(floods, at_least=1000)
    await closed.check()
