"""What was denied, or would have been, is told by name; and a flood of it harms nobody."""

import asyncio
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from enforcer.nft.kernel import Kernel
from enforcer.skeleton import COUNTED_SIZE
from tests.lab.agents import Probe
from tests.lab.floods import Floods, Plan
from tests.netns.conftest import Lab, command, rule, spec
from tests.netns.own import ALLOWED, BACK, FRONT, OWNED, metric, running, status, told

WRONG_PORT = Probe("front", BACK.ips[0], "tcp", 443)
WRONG_SOURCE = Probe("other", BACK.ips[1], "tcp", 80)
OUTSIDER = Probe("outside", BACK.ips[0], "udp", 81)
STRANGE = [WRONG_PORT, WRONG_SOURCE, OUTSIDER]
FLOOD = 120_000  # datagrams of each of the two sources, to more ports than are counted
BUSY = 0.6  # of one core, at most, that the enforcer takes meanwhile
MEMORY = 48 << 20  # bytes more than before, at most
PORT = 9000


def missed(entries: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str, int], str]:
    """Who called whom on which port, and what came nearest to letting it in."""
    found = {}
    for entry in entries:
        assert entry["count"] >= 1
        nearest = entry["nearestMiss"] or {"policy": "", "miss": entry["reason"]}
        key = entry["source"], entry["destination"], entry["protocol"], entry["port"]
        found[key] = f"{nearest['policy']} {nearest['miss']}".strip()
    return found


WANT = {
    ("a/front", "a/back", "TCP", 443): "a/p allows the source, but not the port",
    ("b/other", "a/back", "TCP", 80): "a/p allows the port, but not the source",
    ("203.0.113.9", "a/back", "UDP", 81): "a/p allows neither the source nor the port",
}


async def flows(lab: Lab, verdict: str) -> list[dict[str, Any]]:
    found = json.loads(await told(lab, f"/flows?verdict={verdict}"))
    listed: list[dict[str, Any]] = found["items"]
    return listed


def counts(entries: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], int]:
    return {(entry["source"], entry["port"]): entry["count"] for entry in entries}


async def written(log: Path, verdict: str) -> list[dict[str, Any]]:
    """The lines of all three."""
    async with asyncio.timeout(10):
        while True:
            text = log.read_text() if log.exists() else ""
            whole = [json.loads(line) for line in text.splitlines(True) if line.endswith("\n")]
            found = [line for line in whole if line["verdict"] == verdict]
            if len(found) >= len(WANT):
                return found
            await asyncio.sleep(0.02)


async def test_D40_denied_flows_are_told_by_name_and_audit_drops_nothing(
    vacant: Lab, tmp_path: Path
) -> None:
    log = tmp_path / "flows.jsonl"
    async with running(vacant, tmp_path, *OWNED, "--flow-log", str(log)) as lab:
        for value, verdict in (("audit", "audited"), ("off", ""), ("on", "denied"), (None, "")):
            await lab.api.isolate("a", value)
            await lab.settled()
            before = {name: await flows(lab, name) for name in ("audited", "denied")}
            have = await lab.agents.probe([*ALLOWED, *STRANGE])
            assert [have[p] for p in STRANGE] == [verdict != "denied"] * 3
            assert all(have[p] for p in ALLOWED)
            after = {name: await flows(lab, name) for name in ("audited", "denied")}
            if verdict:
                assert missed(after[verdict]) == WANT
                # A reason is that of the policies at the time when the line is written.
                assert missed(await written(log, verdict)) == WANT
            for name in {"audited", "denied"} - {verdict}:
                assert counts(after[name]) == counts(before[name])
        # The command asks the same, as a person does.
        where = ("--address", lab.enforcer.url)
        code, said = await command("flows", *where, "--verdict", "denied", "--namespace", "b")
        assert code == 0, said
        _, row = said.splitlines()
        assert row.split()[:4] == ["denied", "b/other", "a/back", "TCP"]
        # Isolation is off by now.
        assert "allowed by now" in row
        assert await metric(lab, 'denied_packets_total{reason="not_allowed"}') > 0
        assert await metric(lab, 'denied_packets_total{reason="audited"}') > 0


def used(pid: int) -> tuple[float, int]:
    """Seconds of a processor, and bytes of memory."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds, int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


async def test_D34_a_flood_to_ports_at_random_is_bounded_and_harms_nobody(
    vacant: Lab, tmp_path: Path, kernel: Kernel
) -> None:
    hosts = vacant.world.hosts
    flooding = Plan(everywhere=(BACK.ips[0], FLOOD), burst=64)
    log = tmp_path / "flows.jsonl"
    async with running(vacant, tmp_path, *OWNED, "--flow-log", str(log)) as lab:
        ports = [{"port": PORT, "protocol": "UDP"}]
        await lab.api.policy("a", "q", spec("back", rule({"pods": {"role": "front"}}, ports=ports)))
        await lab.settled()
        steady = {
            hosts["back"]: Plan(listen=(PORT,)),
            hosts["front"]: Plan(datagrams=((BACK.ips[0], PORT),)),
        }
        async with Floods(steady) as allowed:
            seconds, memory = used(lab.enforcer.pid)
            begun = asyncio.get_running_loop().time()
            async with Floods({hosts["other"]: flooding, hosts["outside"]: flooding}) as flood:
                # A change takes effect in the middle of it.
                await asyncio.sleep(0.5)
                await lab.api.label("b", "other", {"n": "1"})
                await lab.settled()
                sent = sum(found["sent"] for found in (await flood.results()).values())
            lasted = asyncio.get_running_loop().time() - begun
            more_seconds, more_memory = used(lab.enforcer.pid)
            told_by = await allowed.accounts()
        flow = told_by["front"]["datagrams"][f"{BACK.ips[0]} {PORT}"]
        assert flow == {"sent": flow["sent"], "back": flow["sent"], "astray": 0}
        assert told_by["back"]["received"] == {FRONT.ips[0]: flow["sent"]}
        assert sent >= 2 * FLOOD
        key_type = "ipv4_addr . ipv4_addr . inet_proto . inet_service"
        elements = await kernel.counted("netpol", "denied4", key_type)
        assert COUNTED_SIZE * 0.9 < len(elements) <= COUNTED_SIZE
        assert more_seconds - seconds < BUSY * lasted
        assert more_memory - memory < MEMORY
        assert (await status(lab))["ready"]
        lines = log.read_text().splitlines()
        assert len(lines) < 25 * (lasted + 1)
        assert any("leftOut" in line for line in lines)
