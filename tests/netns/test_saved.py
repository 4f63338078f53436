"""What outlives the process and the machine: the table and the saved ruleset."""

import asyncio
import json
import signal
import subprocess
from pathlib import Path

import pytest

from enforcer import saved
from enforcer.nft.kernel import Kernel
from enforcer.ruleset import Chain, Ruleset
from tests.lab.descriptors import leave_group, netfilter_sockets
from tests.lab.processes import free_port
from tests.netns.conftest import Lab, cleanup, clear, command
from tests.netns.own import (
    DENIED,
    OWNED,
    SHARED,
    isolated,
    judged,
    metric,
    nft,
    running,
    status,
    told,
)

HOLDS = "the saved ruleset holds until everything has been listed"
STAYS = "the ruleset in the kernel stays until everything has been listed"
NONE = "there is no ruleset yet: traffic passes until everything has been listed"


def file_of(lab: Lab) -> Path:
    path = saved.place(str(lab.enforcer.state), lab.world.node.netns)
    assert path is not None
    return path


@pytest.fixture(scope="module")
async def content(session_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What an enforcer has saved."""
    folder = tmp_path_factory.mktemp("saved")
    await session_lab.enforcer.stop()
    await cleanup(session_lab.world)
    await clear(session_lab.api)
    async with running(session_lab, folder, *OWNED) as lab:
        await judged(lab)
    # What has not been saved yet is saved at the end.
    assert not file_of(lab).stat().st_mode & 0o077
    await cleanup(session_lab.world)
    return file_of(lab).read_bytes()


def away() -> str:
    """Where no server is."""
    return f"http://127.0.0.1:{free_port()}"


async def test_D09_after_a_reboot_without_a_server_the_saved_ruleset_holds(
    vacant: Lab, tmp_path: Path, content: bytes, kernel: Kernel
) -> None:
    await isolated(vacant)
    lab = vacant.other(tmp_path, *OWNED, server=away())
    file_of(lab).parent.mkdir()
    file_of(lab).write_bytes(content)
    await judged(lab, denied=True)  # the machine has started, and nothing is there yet
    try:
        await lab.enforcer.begin()
        await lab.enforcer.until(HOLDS)
        await judged(lab)
        ready = await told(lab, "/readyz")
        assert "[-]synced failed: not listed yet: namespaces, pods, networkpolicys" in ready
        assert "; meanwhile the state of 20" in ready
        # Another start finds the table, and owns it before it knows what should be in it.
        await lab.enforcer.kill()
        await lab.enforcer.begin()
        await lab.enforcer.until(STAYS)
        (table,) = await kernel.tables()
        assert table.owner
        await nft(lab, "flush", "ruleset")
        await judged(lab)
    finally:
        await lab.enforcer.kill()
    generation = await kernel.generation()
    again = vacant.other(tmp_path, *OWNED)
    try:
        await again.enforcer.start()
        await judged(again)
        assert await told(again, "/readyz") == "ok"
        assert again.enforcer.events("committed") == []
        assert await kernel.generation() == generation + 1  # taken over
    finally:
        await again.enforcer.stop()


def spoilt(content: bytes) -> dict[str, bytes]:
    whole = json.loads(content)
    return {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "no object": b"[]",
        "a bit flipped": content.replace(b"accept", b"accepd", 1),
        "an element less": content.replace(b'"10.66.0.12":""', b"", 1).replace(b"{,", b"{"),
        "an older schema": json.dumps({**whole, "schema": 1}).encode(),
        "no sets": json.dumps({**whole, "sets": None}).encode(),
        "binary": bytes(range(256)),
    }


async def test_a_saved_ruleset_that_is_spoilt_is_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ruleset.json"
    path.write_bytes(content)
    found = saved.read(path)
    assert found is not None
    for name, wrong in spoilt(content).items():
        assert wrong != content, name
        path.write_bytes(wrong)
        assert saved.read(path) is None, name


async def test_a_spoilt_file_stops_nothing(vacant: Lab, tmp_path: Path, content: bytes) -> None:
    await isolated(vacant)
    lab = vacant.other(tmp_path, *OWNED, server=away())
    file_of(lab).parent.mkdir()
    file_of(lab).write_bytes(spoilt(content)["an older schema"])
    try:
        await lab.enforcer.begin()
        await lab.enforcer.until(NONE)
        (line,) = lab.enforcer.events("the saved ruleset is of no use")
        assert "it is of schema 1, not" in str(line["error"])
        await judged(lab, denied=True)
        assert lab.enforcer.running
    finally:
        await lab.enforcer.stop()


async def test_a_saved_ruleset_that_the_kernel_refuses_stops_nothing(
    vacant: Lab, tmp_path: Path
) -> None:
    rules = Ruleset()
    rules.add_chain("c", Chain(("jump nowhere",)))
    lab = vacant.other(tmp_path, *OWNED, server=away())
    saved.write(file_of(lab), saved.encoded(rules))
    try:
        await lab.enforcer.begin()
        await lab.enforcer.until("the saved ruleset cannot be loaded: traffic passes")
        await lab.enforcer.until("request failed")
        assert lab.enforcer.running
    finally:
        await lab.enforcer.stop()


async def test_a_disk_that_takes_nothing_stops_nothing(vacant: Lab, tmp_path: Path) -> None:
    """Full for the one, read-only for the other, which has a network namespace of its own."""
    folder = tmp_path / "disk"
    bare = f"{vacant.world.prefix}-bare"
    await asyncio.to_thread(subprocess.run, ("ip", "netns", "add", bare), check=True)
    try:
        (tmp_path / "ro").mkdir()
        other = vacant.other(
            tmp_path / "ro", *OWNED, "--netns", bare, prefix=mounted(tmp_path / "ro", "ro")
        )
        folder.mkdir()
        await other.enforcer.start()
        try:
            full = mounted(folder, "size=4k")
            async with running(vacant, folder, *OWNED, prefix=full) as lab:
                for one, why in ((lab, "No space left"), (other, "Read-only file system")):
                    await one.enforcer.until("the ruleset cannot be saved")
                    assert why in str(one.enforcer.events("the ruleset cannot be saved")[0])
                await judged(lab)
                await lab.api.drop_policy("a", "p")
                await lab.settled()
                await judged(lab, allowed=False)
                assert await told(lab, "/readyz") == "ok"
                assert await told(other, "/readyz") == "ok"
        finally:
            await other.enforcer.stop()
    finally:
        await asyncio.to_thread(subprocess.run, ("ip", "netns", "del", bare), check=True)


def mounted(folder: Path, options: str) -> tuple[str, ...]:
    """A command that gives what follows a disk of its own for the state."""
    state = folder / "state"
    state.mkdir(parents=True)
    script = f'mount -t tmpfs -o {options} none {state} && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", script, "sh")


async def test_D36_nothing_is_left_after_cleanup_and_another_start_is_clean(
    vacant: Lab, tmp_path: Path, content: bytes, kernel: Kernel
) -> None:
    async with running(vacant, tmp_path, *OWNED) as lab:
        file_of(lab).parent.mkdir(exist_ok=True)
        file_of(lab).write_bytes(content)
        file_of(lab).with_suffix(".part").write_bytes(content[:100])
        where = ("--netns", lab.world.node.netns, "--state-dir", str(lab.enforcer.state))
        code, said = await command("cleanup", *where)
        assert code == 2
        assert said.startswith("netpol-enforcer: table netpol belongs to ")
        assert f"[{lab.enforcer.pid}]" in said
        await judged(lab)
    await judged(lab)
    code, said = await command("cleanup", *where)
    assert (code, said) == (0, "")
    assert await kernel.tables() == []
    assert list(lab.enforcer.state.iterdir()) == []
    await judged(lab, denied=True)
    code, said = await command("cleanup", *where)
    assert (code, said) == (0, "")
    try:
        await lab.enforcer.start()
        assert lab.enforcer.events(NONE)
        await judged(lab)
        assert [item.name for item in await kernel.tables()] == ["netpol"]
    finally:
        await lab.enforcer.stop()


async def test_at_the_end_isolated_pods_are_closed_or_all_are_open(
    vacant: Lab, tmp_path: Path, kernel: Kernel
) -> None:
    async with running(vacant, tmp_path, *OWNED, "--on-exit", "closed") as lab:
        await judged(lab)
    await judged(lab, allowed=False)
    await clear(vacant.api)
    async with running(vacant, tmp_path, *OWNED, "--on-exit", "open") as lab:
        await judged(lab)
    await judged(lab, denied=True)
    assert await kernel.tables() == []


async def test_D11_everything_is_read_again_on_demand_and_nothing_is_committed(
    vacant: Lab, tmp_path: Path, kernel: Kernel
) -> None:
    log = tmp_path / "flows"
    async with running(vacant, tmp_path, *OWNED, "--flow-log", str(log)) as lab:
        await lab.agents.probe(DENIED[:1])
        async with asyncio.timeout(5):
            while not log.exists():
                await asyncio.sleep(0.02)
        log.rename(tmp_path / "moved")
        generation = await kernel.generation()
        verified = await metric(lab, 'verify_total{result="ok"}')
        lab.enforcer.send_signal(signal.SIGHUP)
        await lab.enforcer.until("everything is listed again")
        async with asyncio.timeout(5):
            while await metric(lab, 'verify_total{result="ok"}') == verified:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        assert await kernel.generation() == generation
        assert lab.enforcer.events("committed")[1:] == []
        await lab.agents.probe(DENIED[1:2])
        async with asyncio.timeout(5):
            while not log.exists():
                await asyncio.sleep(0.02)
        assert (tmp_path / "moved").read_text().count("\n") == 1
        # The new watches are heard.
        await lab.api.drop_policy("a", "p")
        await lab.settled()
        await judged(lab, allowed=False)


async def test_what_was_changed_unheard_is_found_by_the_verification(
    vacant: Lab, tmp_path: Path
) -> None:
    async with running(vacant, tmp_path, *SHARED, "--verify-every", "1") as lab:
        with netfilter_sockets(lab.enforcer.pid) as sockets:
            assert [leave_group(made, 7) for made in sockets].count(True) == 1
        await nft(lab, "insert", "rule", "inet", "netpol", "forward", "accept")
        await lab.enforcer.until("somebody changed the table; it is as it should be again")
        await judged(lab)
        found = await status(lab)
        assert found["lastRepair"]["pid"] == 0
        assert found["lastRepair"]["what"] == "chain forward has other rules"
        assert await metric(lab, 'verify_total{result="different"}') == 1
