"""When the kernel refuses: the old state stays, it is tried again, and nobody has to help."""

import asyncio
import socket
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from enforcer.nft import batch, wire
from enforcer.nft.kernel import Kernel
from tests.lab.agents import Probe
from tests.lab.descriptors import netfilter_sockets
from tests.netns.conftest import Lab, rule, spec
from tests.netns.own import BACK, OWNED, judged, metric, nft, running, status, told

WIDE = Probe("other", BACK.ips[0], "tcp", 443)
FAILED = "commit failed; the old state stays"


async def test_D33_a_transaction_that_cannot_be_sent_is_tried_until_it_can(
    vacant: Lab, tmp_path: Path
) -> None:
    """The memory for messages to the kernel is gone for a while."""
    async with running(vacant, tmp_path, *OWNED) as lab:
        with netfilter_sockets(lab.enforcer.pid) as sockets:
            sizes = {s: s.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) for s in sockets}
            for made in sockets:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            # More than the smallest buffer takes.
            many = [{"port": port} for port in (443, *range(1000, 1300))]
            await lab.api.policy("a", "many", spec("back", rule(ports=many)))
            async with asyncio.timeout(10):
                while len(lab.enforcer.events(FAILED)) < 4:
                    await asyncio.sleep(0.02)
            await judged(lab)
            assert not (await lab.agents.probe([WIDE]))[WIDE]
            ready = await told(lab, "/readyz")
            assert "[-]commit failed: attempt " in ready
            assert "Message too long" in ready
            found = await status(lab)
            assert not found["ready"]
            assert found["pending"]["changes"]
            assert found["lastError"]["attempts"] >= 3
            times = [
                datetime.fromisoformat(str(line["timestamp"]))
                for line in lab.enforcer.events(FAILED)
            ]
            pauses = [(b - a).total_seconds() for a, b in pairwise(times)][-3:]
            assert pauses == sorted(pauses)
            assert pauses[-1] > 1.5 * pauses[0]
            for made, size in sizes.items():
                made.setsockopt(socket.SOL_SOCKET, 32, size // 2)
        async with asyncio.timeout(15):
            while await told(lab, "/readyz") != "ok":
                await asyncio.sleep(0.05)
        assert (await lab.agents.probe([WIDE]))[WIDE]
        await judged(lab)
        assert await metric(lab, 'commits_total{result="error"}') >= 4


async def test_D33_answers_that_are_lost_cost_nothing_but_another_look(
    vacant: Lab, tmp_path: Path
) -> None:
    """Whether it was committed is not known then, so the kernel is asked."""
    question = wire.message(batch.SUBSYSTEM << 8 | batch.GETGEN, wire.REQUEST, 0, batch.header(0))
    async with running(vacant, tmp_path, *OWNED) as lab:
        with netfilter_sockets(lab.enforcer.pid) as sockets:
            for made in sockets:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
                for _ in range(50):  # whose answers fill it, and nobody has asked for them
                    made.send(question)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        await lab.api.label("a", "front", {"role": "x"})
        await lab.enforcer.until(FAILED)
        assert "No buffer space available" in str(lab.enforcer.events(FAILED)[0]["error"])
        await lab.settled()
        assert len(lab.enforcer.events(FAILED)) == 1
        await judged(lab, allowed=False)
        assert await told(lab, "/readyz") == "ok"


async def test_D33_what_a_change_needs_was_deleted_by_somebody_meanwhile(
    vacant: Lab, tmp_path: Path
) -> None:
    async with running(vacant, tmp_path, "--share-table", *OWNED) as lab:
        lab.enforcer.pause()
        await lab.api.drop_policy("a", "p")
        for name in ("flush chain inet netpol forward", "flush ruleset"):
            await nft(lab, *name.split())
        lab.enforcer.resume()
        await lab.settled()
        await judged(lab, allowed=False)
        assert (await status(lab))["ready"]


async def test_D33_an_orphan_that_another_process_took_is_left_to_it(
    vacant: Lab, tmp_path: Path
) -> None:
    """EPERM from then on: the enforcer says who has it, and starts when it is free again."""
    async with running(vacant, tmp_path, *OWNED) as lab:
        await lab.enforcer.kill()
        other = Kernel(netns=lab.world.node.netns)
        try:
            await other.take("netpol")
            await lab.enforcer.begin()
            assert await lab.enforcer.wait() == 2
            said = lab.enforcer.log.read_text().splitlines()[-1]
            assert said.startswith("netpol-enforcer: table netpol belongs to ")
            await judged(lab)
        finally:
            other.close()
        await lab.enforcer.start()
        await judged(lab)
