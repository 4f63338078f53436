"""What a change costs the kernel, and what it leaves there: nothing but its own."""

import asyncio
import socket
from collections import Counter
from dataclasses import replace

import policy
from enforcer.compile import Compiler
from enforcer.diff import differences
from enforcer.nft import batch, events, wire
from enforcer.nft.kernel import Kernel
from enforcer.ruleset import TABLE
from enforcer.table import Table
from tests.netns.conftest import Lab, rule, spec
from tests.netns.own import OTHER

CYCLES = 1000
NAMES = {getattr(batch, name): name for name in ("NEWELEMENT", "DELELEMENT", "NEWGEN")}


def announced(heard: socket.socket) -> Counter[str]:
    """The messages about all commits since the last time, by kind."""
    found: Counter[str] = Counter()
    while True:
        try:
            data = heard.recv(1 << 18)
        except BlockingIOError:
            return found
        kinds = (item.kind & 0xFF for item in wire.messages(data))
        found.update(NAMES.get(kind, str(kind)) for kind in kinds)


async def test_D38_a_pod_that_changes_is_one_transaction_about_its_own_addresses(
    lab: Lab, kernel: Kernel
) -> None:
    """`other` is a peer of two classes, whose sets have other peers as well."""
    await lab.api.isolate("a", "on")
    await lab.api.policy("a", "p", spec("back", rule({"namespaces": {"team": "b"}})))
    await lab.api.policy("a", "q", spec("front", rule({"namespaces": {}})))
    await lab.settled()
    heard = await kernel.inside(events.open_socket)
    elsewhere = replace(OTHER, name="elsewhere", ips=("10.66.0.77",), fields={"nodeName": "n2"})
    try:
        for verb in ("NEWELEMENT", "DELELEMENT"):
            generation = await kernel.generation()
            if verb == "NEWELEMENT":
                await lab.api.pod(elsewhere)
            else:
                await lab.api.delete("/api/v1/namespaces/b/pods/elsewhere")
            async with asyncio.timeout(5):
                while await kernel.generation() == generation:
                    await asyncio.sleep(0.005)
            await asyncio.sleep(0.1)
            assert await kernel.generation() == generation + 1
            assert announced(heard) == {verb: 2, "NEWGEN": 1}
    finally:
        heard.close()


async def test_D39_a_thousand_pods_and_policies_come_and_go() -> None:
    """Everything that the kernel holds, before and after."""
    kernel = Kernel(private=True)
    compiler, table = Compiler(), Table(kernel)
    annotations = {policy.ISOLATION_ANNOTATION: "on"}
    compiler.put_namespace(
        "n", policy.namespace({"metadata": {"name": "n", "annotations": annotations}})
    )
    compiler.take()
    try:
        await table.load(compiler.rules)
        before = await kernel.held(TABLE)
        for number in range(CYCLES):
            labels, ip = {"n": f"{number % 9}"}, f"10.0.{number // 250}.{number % 250 + 1}"
            meta = {"name": f"x{number}", "namespace": "n", "labels": labels}
            shown = {"phase": "Running", "podIPs": [{"ip": ip}, {"ip": f"fd00::{number + 1:x}"}]}
            made = policy.pod({"metadata": meta, "spec": {}, "status": shown})
            peer = {"pods": {"n": f"{number % 3}"}}
            wanted = {"podSelector": labels, "allowIncoming": rule(peer, ports=[{"port": 80}])}
            parsed = policy.parse({"metadata": meta, "spec": wanted, "kind": "NetworkPolicy"})
            key = ("n", f"x{number}")
            compiler.put_policy(key, parsed)
            compiler.put_pod(key, made)
            await table.commit(compiler.take(), compiler.rules)
            if number >= 5:  # some are there at any time
                old = ("n", f"x{number - 5}")
                compiler.put_pod(old, None)
                compiler.put_policy(old, None)
                await table.commit(compiler.take(), compiler.rules)
        assert differences(await table.verify(compiler.rules)) == []
        for number in range(CYCLES - 5, CYCLES):
            compiler.put_pod(("n", f"x{number}"), None)
            compiler.put_policy(("n", f"x{number}"), None)
        await table.commit(compiler.take(), compiler.rules)
        assert await kernel.held(TABLE) == before
    finally:
        kernel.close()
