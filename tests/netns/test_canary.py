"""The canary in a node of its own: what it sees with tables and without, and what it leaves."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from enforcer.host.canary import ALLOWED, DEFAULT, DENIED, Canary, Unavailable, objects
from policy import Cluster, Flow, verdict
from tests.lab.world import World, world

TABLE = f"""
table inet netpol {{
  chain target {{
    meta l4proto udp ct original ip saddr {DEFAULT.source[0]} ct reply proto-src {ALLOWED} accept
    meta l4proto udp ct original ip6 saddr {DEFAULT.source[1]} ct reply proto-src {ALLOWED} accept
    drop
  }}
  chain forward {{
    type filter hook forward priority filter + 10; policy accept;
    ct reply ip saddr {DEFAULT.target[0]} goto target
    ct reply ip6 saddr {DEFAULT.target[1]} goto target
  }}
}}
"""
CLOSED = """
table inet other {
  chain forward {
    type filter hook forward priority 0; policy drop;
  }
}
"""
OPEN = """
table inet other {
  chain forward {
    type filter hook forward priority -200; policy accept;
    ct state established,related accept
    accept
  }
}
"""
ODD = """
table inet other {
  chain prerouting {
    type filter hook prerouting priority -300;
    fib saddr . iif oif missing drop
  }
  chain postrouting {
    type nat hook postrouting priority 100;
    masquerade
  }
}
"""
HOLD = """
import asyncio, sys
from enforcer.host.canary import Canary, Unavailable

async def main():
    canary = Canary(netns=sys.argv[1])
    try:
        await canary.start()
    except Unavailable as error:
        print(error, flush=True)
        return
    print((await canary.probe()).text, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
def node() -> Iterator[World]:
    with world({}) as made:
        yield made


@asynccontextmanager
async def started(node: World) -> AsyncIterator[Canary]:
    canary = Canary(netns=node.node.netns)
    try:
        await canary.start()
        yield canary
    finally:
        await canary.close()


def run(*command: str) -> str:
    return subprocess.run(command, check=True, text=True, capture_output=True).stdout


def inside(node: World, *command: str) -> str:
    return run("ip", "netns", "exec", node.node.netns, *command)


def devices(node: World) -> set[str]:
    """The canary's devices in the node."""
    lines = run("ip", "-n", node.node.netns, "-o", "link").splitlines()
    names = {line.split()[1].strip(":").split("@")[0] for line in lines}
    return {name for name in names if name.startswith("netpolc")}


def test_its_policy_allows_one_port_and_nothing_else() -> None:
    namespace, pods, policy = objects("node-1")
    cluster = Cluster({namespace.name: namespace}, pods, (policy,))
    for source, target in zip(DEFAULT.source, DEFAULT.target, strict=True):
        assert verdict(cluster, Flow(source, target, "UDP", ALLOWED)).allowed
        assert not verdict(cluster, Flow(source, target, "UDP", DENIED)).allowed
        assert not verdict(cluster, Flow(source, target, "TCP", ALLOWED)).allowed
        assert not verdict(cluster, Flow("10.0.0.1", target, "UDP", ALLOWED)).allowed
    assert {pod.node for pod in pods} == {"node-1"}


async def test_without_a_table_what_is_denied_passes(node: World) -> None:
    async with started(node) as canary:
        outcome = await canary.probe()
    assert [passed.family for passed in outcome.families] == [4, 6]
    assert outcome.allowed_passed
    assert outcome.denied_passed
    assert not outcome.enforced
    assert outcome.text == "denied traffic passes: IPv4, IPv6"


async def test_with_a_table_only_what_is_allowed_passes(node: World) -> None:
    async with started(node) as canary:
        assert (await canary.probe()).denied_passed
        node.nft(TABLE)
        for _ in range(200):
            outcome = await canary.probe()
            assert outcome.enforced, outcome
        # A probe ends with the arrival of what is allowed; it waits for no silence.
        assert outcome.milliseconds < 250
        node.nft("delete table inet netpol")
        assert (await canary.probe()).denied_passed


async def test_a_family_that_is_open_is_named(node: World) -> None:
    node.nft(TABLE.replace(f"ct reply ip6 saddr {DEFAULT.target[1]}", "ct reply ip6 saddr ::1"))
    async with started(node) as canary:
        assert (await canary.probe()).text == "denied traffic passes: IPv6"


async def test_an_accept_of_another_table_opens_nothing(node: World) -> None:
    node.nft(TABLE)
    node.nft(OPEN)
    async with started(node) as canary:
        for _ in range(3):
            assert (await canary.probe()).enforced


async def test_a_drop_of_another_table_is_no_bypass(node: World) -> None:
    node.nft(TABLE)
    node.nft(CLOSED)
    async with started(node) as canary:
        outcome = await canary.probe()
    assert not outcome.denied_passed
    assert not outcome.enforced
    assert outcome.text == "allowed traffic does not pass: IPv4, IPv6"


async def test_masquerade_and_strict_reverse_path_filters_do_not_disturb_it(node: World) -> None:
    node.nft(TABLE)
    node.nft(ODD)
    inside(node, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
    async with started(node) as canary:
        assert (await canary.probe()).enforced


async def test_it_judges_the_families_that_the_host_forwards(node: World) -> None:
    node.nft(TABLE)
    inside(node, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=0")
    async with started(node) as canary:
        outcome = await canary.probe()
    assert outcome.enforced
    assert [passed.family for passed in outcome.families] == [4]


async def test_a_host_that_forwards_nothing_has_none_and_stays_as_it_is(node: World) -> None:
    settings = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
    inside(node, "sysctl", "-qw", *(f"{name}=0" for name in settings))
    canary = Canary(netns=node.node.netns)
    with pytest.raises(Unavailable, match=r"sysctl -w net\.ipv4\.ip_forward=1"):
        await canary.start()
    await canary.close()
    assert inside(node, "sysctl", "-n", *settings).split() == ["0", "0"]
    assert not devices(node)


async def test_there_is_no_such_namespace() -> None:
    canary = Canary(netns="np-nowhere")
    with pytest.raises(Unavailable, match="No such file"):
        await canary.start()
    with pytest.raises(Unavailable, match="it is not there"):
        await canary.probe()
    await canary.close()


async def test_closing_removes_everything_and_it_can_start_again(node: World) -> None:
    def named() -> set[str]:
        """Those of other tests, which come and go meanwhile, are left out."""
        own = f"np{os.getpid()}x"
        listed = {path.name for path in Path("/run/netns").iterdir()}
        return {name for name in listed if name.startswith(own) or not name.startswith("np")}

    before = named()
    for _ in range(2):
        async with started(node):
            assert devices(node) == {"netpolc0", "netpolc1"}
            assert named() == before
        assert not devices(node)


async def test_what_a_dead_process_left_is_replaced(node: World) -> None:
    run(
        "ip",
        "-n",
        node.node.netns,
        *["link", "add", "netpolc1", "type", "veth", "peer", "name", "other"],
    )
    async with started(node) as canary:
        assert (await canary.probe()).allowed_passed


async def test_a_device_of_another_kind_is_left_alone(node: World) -> None:
    run("ip", "-n", node.node.netns, "link", "add", "netpolc1", "type", "bridge")
    canary = Canary(netns=node.node.netns)
    with pytest.raises(Unavailable, match="netpolc1 of another kind"):
        await canary.start()
    await canary.close()
    assert devices(node) == {"netpolc1"}


async def test_a_probe_after_its_devices_were_removed_says_so(node: World) -> None:
    async with started(node) as canary:
        run("ip", "-n", node.node.netns, "link", "del", "netpolc0")
        with pytest.raises(Unavailable, match="removed or changed"):
            await canary.probe()
        await canary.close()
    async with started(node) as canary:
        assert (await canary.probe()).allowed_passed


def test_a_killed_process_leaves_nothing(node: World) -> None:
    command = (sys.executable, "-c", HOLD, node.node.netns)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "denied traffic passes: IPv4, IPv6\n"
        assert devices(node) == {"netpolc0", "netpolc1"}
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while devices(node):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_without_the_capability_it_says_which(node: World) -> None:
    without = ("setpriv", "--inh-caps=-sys_admin", "--bounding-set=-sys_admin")
    said = run(*without, sys.executable, "-c", HOLD, node.node.netns)
    assert "it needs CAP_SYS_ADMIN" in said
    assert not devices(node)


async def test_it_does_not_hold_up_the_event_loop(node: World) -> None:
    node.nft(CLOSED)
    async with started(node) as canary:
        probe = asyncio.create_task(canary.probe())
        begun = time.monotonic()
        await asyncio.sleep(0.01)
        assert time.monotonic() - begun < 0.3
        assert not (await probe).allowed_passed
