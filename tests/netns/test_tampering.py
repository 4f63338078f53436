"""Other programs at the table, or at their own: nothing opens, and who did it is told."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from enforcer.nft.kernel import Kernel
from tests.lab.cluster import PodSpec
from tests.netns.conftest import Lab, command
from tests.netns.own import BACK, OWNED, SHARED, judged, metric, nft, running, status

BOUND = 1.0  # seconds until the table is as it should be
# What a firewall that is loaded again does: everything goes, then its own comes.
RELOAD = """
flush ruleset
table inet firewalld {
  set trusted { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 } }
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    ip saddr @trusted counter accept
  }
}
"""
CHURN = """
import subprocess, sys
elements = ", ".join(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(100_000))
start = "table inet busy { set many { type ipv4_addr; size 200000; }; }"
subprocess.run(("nft", "-f", "-"), input=start, text=True, check=True)
text = f"flush set inet busy many\\nadd element inet busy many {{ {elements} }}\\n"
while True:
    subprocess.run(("nft", "-f", "-"), input=text, text=True, check=True)
    print("filled", flush=True)
"""
FOREIGN = """
table inet strange {
  comment "owner=somebody-else"
  quota much { over 25 mbytes used 0 bytes }
  counter seen { packets 0 bytes 0 }
  limit slow { rate 10/second }
  set heard { type ipv4_addr . inet_service; flags dynamic,timeout; timeout 1m; size 1024; }
  map marks { type ipv4_addr . inet_service : mark; flags interval; }
  chain odd {
    type filter hook forward priority -300; policy accept;
    numgen inc mod 7 vmap { 0 : continue, 1 : continue }
    meta mark set jhash ip saddr mod 3 seed 0xa5
    fib saddr . iif oif missing counter
    tcp option maxseg size set rt mtu
    @nh,96,32 0x0a420001 counter
    update @heard { ip saddr . tcp dport limit rate over 1000/second } counter
    quota name "much" counter
    ip dscp set cs1
    th dport 9 notrack
  }
  chain mangled { type route hook output priority mangle; policy accept; meta skuid 4711 counter; }
}
table ip netpolish { chain forward { type filter hook forward priority 10; policy accept; }; }
table bridge b { chain c { ether saddr 00:00:00:00:00:00 drop; }; }
"""


FRONT_TOO = PodSpec("a", "front-2", {"role": "front"}, ("10.66.0.14",))
REPAIRED = "somebody changed the table; it is as it should be again"


async def repaired(lab: Lab, count: int, *, seconds: float = BOUND) -> dict[str, Any]:
    """What the log says of the repair that makes so many."""
    async with asyncio.timeout(seconds):
        while len(found := lab.enforcer.events(REPAIRED)) < count:
            await asyncio.sleep(0.01)
    return found[-1]


async def test_D12_a_table_that_is_shared_is_back_at_once_and_the_culprit_is_named(
    vacant: Lab, tmp_path: Path, kernel: Kernel
) -> None:
    async with running(vacant, tmp_path, *SHARED) as lab:
        held = await kernel.held("netpol")
        (jump,) = [v for v in held.sets["pods4"].elements.values() if v.startswith("jump c_")][:1]
        tamperings = (
            (("flush", "ruleset"), ""),
            (("delete", "table", "inet", "netpol"), ""),
            (("-f", "-"), RELOAD),
            (("delete", "element", "inet", "netpol", "pods4", f"{{ {BACK.ips[0]} }}"), ""),
            (("add", "element", "inet", "netpol", "iso4", "{ 192.0.2.1 }"), ""),
            (("insert", "rule", "inet", "netpol", "forward", "accept"), ""),
            (("flush", "chain", "inet", "netpol", "deny"), ""),
            (("flush", "chain", "inet", "netpol", jump.split()[1]), ""),
            (("flush", "table", "inet", "netpol"), ""),
            (("add", "chain", "inet", "netpol", "theirs"), ""),
            (("add table inet netpol { flags dormant; }",), ""),
        )
        for number, (words, text) in enumerate(tamperings, start=1):
            pid, code, said = await nft(lab, *words, text=text)
            assert code == 0, said
            told = await repaired(lab, number)
            assert (told["pid"], told["program"]) == (pid, "nft"), words
            await judged(lab)
            found = await status(lab)
            assert (found["lastRepair"]["pid"], found["lastRepair"]["program"]) == (pid, "nft")
            assert await metric(lab, "repairs_total") == number
            assert found["ready"]
        # One that is dormant is replaced.
        assert {item.name for item in await kernel.tables()} == {"netpol_2", "firewalld"}
        await nft(lab, "delete", "table", "inet", "firewalld")


async def test_D12_a_repair_that_a_change_comes_with_is_told_as_well(
    vacant: Lab, tmp_path: Path
) -> None:
    """The enforcer hears of both at the same time."""
    async with running(vacant, tmp_path, *SHARED) as lab:
        lab.enforcer.pause()
        pid, _, _ = await nft(lab, "flush", "ruleset")
        await lab.api.label("b", "other", {"n": "1"})
        await lab.api.pod(FRONT_TOO)
        lab.enforcer.resume()
        told = await repaired(lab, 1, seconds=5)
        assert told["pid"] == pid
        await judged(lab)
        await lab.settled()
        assert (await status(lab))["ready"]
        assert await metric(lab, "repairs_total") == 1


async def test_D12_a_table_that_is_owned_survives_everything(
    vacant: Lab, tmp_path: Path, kernel: Kernel
) -> None:
    async with running(vacant, tmp_path, *OWNED) as lab:
        before = await kernel.generation(), await kernel.held("netpol")
        for words in (
            ("delete", "table", "inet", "netpol"),
            ("delete", "element", "inet", "netpol", "pods4", f"{{ {BACK.ips[0]} }}"),
            ("insert", "rule", "inet", "netpol", "forward", "accept"),
            ("flush", "chain", "inet", "netpol", "deny"),
        ):
            _, code, said = await nft(lab, *words)
            assert code != 0
            assert "Operation not permitted" in said
        assert await kernel.generation() == before[0]
        for text in ("flush ruleset", RELOAD):
            _, code, said = await nft(lab, "-f", "-", text=text)
            assert code == 0, said
            await judged(lab)
        await nft(lab, "delete", "table", "inet", "firewalld")
        assert await kernel.held("netpol") == before[1]
        assert lab.enforcer.events(REPAIRED) == []
        assert await metric(lab, "repairs_total") == 0


@pytest.mark.parametrize("flags", [OWNED, SHARED], ids=["owned", "shared"])
async def test_D13_D37_tables_of_others_are_left_alone_and_a_second_enforcer_is_refused(
    vacant: Lab, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    _, code, said = await nft(vacant, "-f", "-", text=FOREIGN)
    assert code == 0, said

    async def foreign() -> str:
        _, _, listed = await nft(vacant, "--stateless", "list", "ruleset")
        parts = re.findall(r"(?ms)^table .*?^}", re.sub(r"(?ms)^\t\telements = .*?}\n", "", listed))
        return "\n".join(part for part in parts if not part.startswith("table inet netpol {"))

    before = await foreign()
    assert before.count("table ") == 3
    try:
        async with running(vacant, tmp_path, *flags) as lab:
            await judged(lab)
            (tmp_path / "second").mkdir()
            other = SHARED if flags is OWNED else OWNED
            second = lab.other(tmp_path / "second", *other).enforcer
            await second.begin()
            assert await second.wait() == 2
            said = second.log.read_text()
            assert said.splitlines()[-1].startswith(
                "netpol-enforcer: another enforcer programs this network namespace"
            )
            assert "Traceback" not in said
            await lab.settled()
            await judged(lab)
            assert await foreign() == before
        assert await foreign() == before
        status_, said = await command(
            "cleanup", "--netns", lab.world.node.netns, "--state-dir", str(tmp_path / "state")
        )
        assert (status_, said) == (0, "")
        assert await foreign() == before
    finally:
        for table in ("inet strange", "ip netpolish", "bridge b"):
            await nft(vacant, "delete", "table", *table.split())


async def test_a_busy_program_holds_up_neither_commits_nor_the_notice_of_tampering(
    vacant: Lab, tmp_path: Path
) -> None:
    """Every commit of anybody interrupts the reading of the kernel's tables."""
    async with running(vacant, tmp_path, *SHARED, "--verify-every", "1") as lab:
        where = ("ip", "netns", "exec", lab.world.node.netns)
        churn = await asyncio.create_subprocess_exec(
            *where, "python3", "-c", CHURN, stdout=asyncio.subprocess.PIPE
        )
        assert churn.stdout is not None
        try:
            await churn.stdout.readline()
            for number in range(1, 4):
                await lab.api.label("a", "front", {"role": "front" if number % 2 == 0 else "x"})
                await lab.settled()
                await judged(lab, allowed=number % 2 == 0)
                pid, code, said = await nft(
                    lab, "delete", "element", "inet", "netpol", "pods4", f"{{ {BACK.ips[0]} }}"
                )
                assert code == 0, said
                told = await repaired(lab, number)
                # So many announcements that some are lost, maybe this one.
                assert told["pid"] in (pid, "(not known)")
            found = await status(lab)
            assert found["ready"], found["checks"]
            assert found["lastError"] is None
        finally:
            churn.kill()
            await churn.wait()
            await nft(lab, "delete", "table", "inet", "busy")
