"""Frames with VLAN tags from pods at a bridge: with the guard none arrives, whatever the port."""

import asyncio
import contextlib
import errno
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from enforcer import guards
from enforcer.host import devices, links, tags
from enforcer.host.finding import Finding, Severity
from enforcer.host.netlink import NETFILTER, Message, Netlink
from enforcer.host.rtnetlink import Link
from enforcer.host.tags import Kept, Tags
from enforcer.nft.kernel import Kernel
from enforcer.telemetry.status import Status
from tests.lab import packets
from tests.lab.cluster import Api, PodSpec
from tests.lab.inside import within
from tests.lab.processes import EnforcerProcess, Server
from tests.lab.world import BRIDGE, World, bare_node, configure, sysctl
from tests.netns.conftest import command

GATEWAYS = ("10.66.0.1", "fd66::1")
ONE, TWO = ("10.66.0.11", "fd66::11"), ("10.66.0.12", "fd66::12")
PORT = 9000
Q0, AD0 = b"\x81\0\0\0", b"\x88\xa8\0\0"
# What Linux takes off in one go, and what it does not: the last is refused all the same.
TAGS = {"Q0": Q0, "AD0": AD0, "Q0+Q0": Q0 + Q0, "AD0+Q0": AD0 + Q0}
DENY = """
table inet netpol {
  chain forward {
    type filter hook forward priority filter + 10; policy accept;
    ct reply ip saddr 10.66.0.12 drop
  }
}
"""
TABLE = """
table bridge netpol {
  flags owner
  comment "owner=netpol-enforcer tags=1"
  set ports {
    type iface_index
    elements = { "PORT1", "PORT2" }
  }
  chain prerouting {
    type filter hook prerouting priority dstnat; policy accept;
    ether type { 8021q, 8021ad, 0x9100 } iif @ports drop
  }
}
"""


@pytest.fixture
def node() -> Iterator[World]:
    """Two pods at a bridge, whose packets are judged: the second one lets nothing in by IPv4."""
    with bare_node("node", GATEWAYS, ()) as made:
        made.plug("one", ONE, gateways=GATEWAYS)
        made.plug("two", TWO, gateways=GATEWAYS)
        made.bridge_calls(on=True)
        made.nft(DENY)
        yield made


def nft(node: World, *words: str) -> str:
    where = ("ip", "netns", "exec", node.node.netns, "nft", *words)
    return subprocess.run(where, check=True, text=True, capture_output=True).stdout


def mac(node: World, name: str) -> bytes:
    def read() -> bytes:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            found: bytes = raw.getsockname()[4]
            return found

    return within(node.hosts[name].netns, read)


def datagram(source: str, target: str, data: bytes) -> bytes:
    udp = packets.datagram(source, target, PORT, data)
    made = packets.ipv4(source, target, packets.UDP, udp)
    return made[:10] + packets.checksum(made[:20]).to_bytes(2, "big") + made[12:]


def through(node: World, source: str = "one") -> list[str]:
    """With which tags, `plain` for none, a datagram of a pod comes to the pod `two`."""
    sender = node.hosts[source]
    ends = mac(node, "two") + mac(node, source)

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            for name, tag in ({"plain": b""} | TAGS).items():
                content = datagram(sender.ips[0], TWO[0], name.encode())
                raw.send(ends + tag + b"\x08\0" + content)

    def made() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    with within(node.hosts["two"].netns, made) as receiver:
        receiver.bind((TWO[0], PORT))
        receiver.settimeout(0.4)
        within(sender.netns, send)
        found = []
        with contextlib.suppress(TimeoutError):
            while True:
                found.append(receiver.recv(64).decode())
    return found


@dataclass
class Guarded:
    """A guard that is turned by hand, in a thread of the node."""

    node: World
    tags: Tags
    kept: list[Kept] = field(default_factory=list)

    def __call__(self, *, whole: bool = False) -> Kept:
        def turn() -> Kept:
            self.tags.open()
            return self.tags.keep(whole=whole or not self.kept)

        self.kept.append(within(self.node.node.netns, turn))
        return self.kept[-1]


@pytest.fixture
def guard(node: World) -> Iterator[Guarded]:
    made = Tags()
    yield Guarded(node, made)
    made.close()


FINE, MENDED = Kept([], False), Kept([], True)


def test_without_the_guard_tags_lead_round_the_policies(node: World) -> None:
    """The reason for it; were it not so any more, the guard could go."""
    assert through(node) == list(TAGS)
    sysctl(node.node.netns, {"net.bridge.bridge-nf-filter-vlan-tagged": "1"})
    assert through(node) == ["Q0+Q0", "AD0+Q0"]


def test_with_the_guard_nothing_with_a_tag_arrives(node: World, guard: Guarded) -> None:
    assert guard() == FINE
    assert through(node) == []
    nft(node, "delete", "table", "inet", "netpol")
    assert through(node) == ["plain"]


def test_a_port_that_comes_later_is_guarded_and_one_that_goes_is_forgotten(
    node: World, guard: Guarded
) -> None:
    guard()
    node.plug("three", ("10.66.0.13", "fd66::13"), gateways=GATEWAYS)
    assert through(node, "three") == list(TAGS)
    assert guard() == FINE
    assert through(node, "three") == []
    configure(node.node.netns, f"link set {node.links['three']} nomaster")
    assert guard() == FINE
    listed = nft(node, "list", "table", "bridge", "netpol")
    assert node.links["three"] not in listed
    configure(node.node.netns, f"link del {node.links['one']}")
    assert guard() == FINE
    listed = nft(node, "list", "table", "bridge", "netpol")
    assert f'elements = {{ "{node.links["two"]}" }}' in listed


def test_the_table_is_readable_and_of_one_owner(node: World, guard: Guarded) -> None:
    guard()
    listed = nft(node, "list", "table", "bridge", "netpol")
    # Of `persist` this nft does not know.
    plain = re.sub(r"# progname \S+|(?<=owner),persist", "", listed).split()
    want = TABLE.replace("PORT1", node.links["one"]).replace("PORT2", node.links["two"])
    assert plain == want.split()
    with pytest.raises(subprocess.CalledProcessError):
        nft(node, "delete", "table", "bridge", "netpol")
    guard.tags.close()
    assert "owner\n" not in nft(node, "list", "table", "bridge", "netpol")
    assert through(node) == []


def test_a_node_without_pods_at_a_bridge_gets_no_table() -> None:
    with bare_node("node", GATEWAYS, ()) as node:
        made = Tags()
        try:
            assert Guarded(node, made)() == FINE
            assert "bridge" not in nft(node, "list", "tables")
        finally:
            made.close()


def test_tagged_frames_of_other_ports_pass(node: World, guard: Guarded) -> None:
    """Of an uplink, say: its other end is in the namespace of the node itself."""
    guard()
    configure(
        node.node.netns,
        "link add wire type veth peer name uplink",
        f"link set uplink master {BRIDGE} up",
        "link set wire up",
    )
    guard()
    ends = mac(node, "two") + b"\x02\0\0\0\0\x09"

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("wire", 0))
            raw.send(ends + Q0 + b"\x08\0" + datagram(ONE[0], TWO[0], b"wire"))

    def made() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    with within(node.hosts["two"].netns, made) as receiver:
        receiver.bind((TWO[0], PORT))
        receiver.settimeout(1)
        within(node.node.netns, send)
        assert receiver.recv(64) == b"wire"


@pytest.mark.parametrize(
    "harm",
    [
        "delete table bridge netpol",
        "flush chain bridge netpol prerouting",
        "flush set bridge netpol ports",
        "table bridge netpol { flags dormant; }",
        "insert rule bridge netpol prerouting accept",
        "flush ruleset",
    ],
)
def test_a_table_that_others_may_change_is_mended(node: World, harm: str) -> None:
    made = Tags(owned=False)
    guard = Guarded(node, made)
    try:
        assert guard() == FINE
        assert guard(whole=True) == FINE
        before = nft(node, "list", "table", "bridge", "netpol")
        nft(node, harm)
        assert guard(whole=True) == MENDED
        assert nft(node, "list", "table", "bridge", "netpol") == before
        assert guard(whole=True) == FINE
        assert set(through(node)) <= {"plain"}
    finally:
        made.close()


def test_what_others_do_elsewhere_and_what_ports_do_is_no_change_of_the_table(
    node: World, guard: Guarded
) -> None:
    guard()

    def rule() -> str:
        return nft(node, "-a", "list", "chain", "bridge", "netpol", "prerouting")

    before = rule()
    nft(node, "add table bridge other")
    assert guard(whole=True) == FINE
    node.plug("three", ("10.66.0.13", "fd66::13"), gateways=GATEWAYS)
    assert guard() == FINE
    nft(node, "delete table bridge other")
    assert guard(whole=True) == FINE
    node.plug("four", ("10.66.0.14", "fd66::14"), gateways=GATEWAYS)
    assert guard(whole=True) == FINE
    assert rule() == before


def test_where_tables_have_no_owner_it_is_set_without(
    node: World, guard: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before Linux 6.9."""
    commit = Netlink.commit

    def old(self: Netlink, messages: Sequence[Message]) -> None:
        if any(b"\x08\0\2\0\0\0\0\6" in body for *_, body in messages):
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        commit(self, messages)

    monkeypatch.setattr(Netlink, "commit", old)
    assert guard() == FINE
    assert "flags" not in nft(node, "list", "table", "bridge", "netpol")
    assert through(node) == []


def test_a_change_after_the_table_was_harmed_mends_it(node: World) -> None:
    made = Tags(owned=False)
    guard = Guarded(node, made)
    try:
        guard()
        nft(node, "delete table bridge netpol")
        node.plug("three", ("10.66.0.13", "fd66::13"), gateways=GATEWAYS)
        assert guard() == MENDED
        assert through(node, "three") == []
    finally:
        made.close()


def test_another_process_takes_over_what_one_has_left(node: World, guard: Guarded) -> None:
    guard()
    guard.tags.close()
    again = Tags()
    try:
        assert Guarded(node, again)() == FINE
        listed = nft(node, "list", "table", "bridge", "netpol")
        assert "flags owner" in listed
        assert listed.count(node.links["one"]) == 1
    finally:
        again.close()


def test_where_it_cannot_be_set_each_bridge_is_a_finding(node: World, guard: Guarded) -> None:
    nft(node, "add table bridge netpol")
    kept = guard()
    (found,) = kept.findings
    assert (found.kind, found.subject) == ("bridge-tags", f"bridge {BRIDGE}")
    assert found.severity == "bypassed"
    assert "there is a table bridge netpol of another program" in found.text
    nft(node, "delete table bridge netpol")
    assert guard(whole=True) == FINE
    assert through(node) == []


ASK = """
from enforcer.host.tags import Tags
tags = Tags()
tags.open()
for finding in tags.keep(whole=True).findings:
    print(finding.kind, finding.subject, "Operation not permitted" in finding.text)
"""


def test_without_the_capability_it_is_a_finding(node: World) -> None:
    without = ["setpriv", "--inh-caps=-net_admin", "--bounding-set=-net_admin"]
    where = ("ip", "netns", "exec", node.node.netns, *without, sys.executable, "-c", ASK)
    done = subprocess.run(where, check=True, text=True, capture_output=True)
    assert done.stdout == "bridge-tags bridge br0 True\n"


def test_removing_it_lets_all_pass_and_leaves_tables_of_others(node: World, guard: Guarded) -> None:
    guard()
    within(node.node.netns, guard.tags.remove)
    assert through(node) == list(TAGS)
    within(node.node.netns, guard.tags.remove)
    nft(node, "add table bridge netpol")
    within(node.node.netns, tags.remove)
    assert "table bridge netpol" in nft(node, "list tables")


def test_what_is_owned_is_not_removed_by_another_process(node: World, guard: Guarded) -> None:
    guard()

    def refused() -> bool:
        try:
            tags.remove()
        except PermissionError:
            return True
        return False

    assert within(node.node.netns, refused)
    assert "table bridge netpol" in nft(node, "list tables")


def link(index: int, name: str, kind: str, **more: object) -> Link:
    values: dict[str, object] = {"master": 0, "ready": True, "away": False, "xdp": False}
    return Link(index, name, kind, **(values | {"data": {}} | more))  # type: ignore[arg-type]


def test_ports_of_pods_are_those_that_lead_to_another_namespace() -> None:
    listed = [
        link(1, "br0", "bridge"),
        link(2, "br1", "bridge", data={7: b"\1"}),
        link(3, "br2", "bridge"),
        link(4, "ovs", "openvswitch"),
        link(11, "pod1", "veth", master=1, away=True),
        link(12, "pod2", "veth", master=1, away=True),
        link(13, "uplink", "", master=1),
        link(14, "pod3", "veth", master=2, away=True),
        link(15, "wire", "veth", master=3),
        link(16, "pod4", "veth", master=4, away=True),
        link(17, "routed", "veth", away=True),
        link(18, "pod5", "veth", master=99, away=True),
    ]
    assert devices.pod_ports(listed) == {"br0": {11, 12}}


async def until(condition: Callable[[], bool], seconds: float = 10) -> float:
    """Seconds until it is so."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + seconds
        await asyncio.sleep(0.001)
    return time.monotonic() - begun


def guarded_ports(node: World) -> int:
    """How many ports the set has."""

    def read() -> int:
        nft = Netlink(NETFILTER)
        try:
            return len(tags._elements(nft))
        except FileNotFoundError:
            return 0
        finally:
            nft.close()

    return within(node.node.netns, read)


@contextlib.asynccontextmanager
async def watching(node: World, status: Status) -> AsyncIterator[None]:
    kernel, made = Kernel(netns=node.node.netns), Tags()
    task = asyncio.create_task(guards.watch_tags(kernel, made, guards.Ways(status)))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        kernel.close()
        made.close()


async def test_a_new_port_is_guarded_within_milliseconds(node: World) -> None:
    async with watching(node, Status(node="n")):
        await until(lambda: guarded_ports(node) == 2)
        took = []
        for number in range(13, 18):
            before = guarded_ports(node)
            node.plug(f"p{number}", (f"10.66.0.{number}", f"fd66::{number}"), gateways=GATEWAYS)
            took.append(await until(lambda before=before: guarded_ports(node) > before))  # type: ignore[misc]
        assert guarded_ports(node) == 7
    assert min(took) < 0.05, took


async def test_a_port_is_guarded_that_leads_to_a_pod_only_later(node: World) -> None:
    """Of a device that moves, the kernel announces nothing about its other end."""
    pod = node.hosts["two"].netns
    async with watching(node, Status(node="n")):
        await until(lambda: guarded_ports(node) == 2)
        configure(
            node.node.netns,
            "link add late type veth peer name inner",
            f"link set late master {BRIDGE}",
        )
        configure(node.node.netns, f"link set inner netns {pod}")
        assert await until(lambda: guarded_ports(node) == 3) < 2
        configure(pod, "link del inner")
        assert await until(lambda: guarded_ports(node) == 2) < 2


async def test_many_ports_at_once_are_all_guarded(
    node: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though more is announced than there is room for."""
    monkeypatch.setattr(links, "_BUFFER", 1)  # the kernel takes its least
    async with watching(node, Status(node="n")):
        await until(lambda: guarded_ports(node) == 2)
        ends = f"netns {node.hosts['two'].netns}"
        made = [
            f"link add many{number} type veth peer name inner{number} {ends}"
            for number in range(300)
        ]
        await asyncio.to_thread(configure, node.node.netns, *made)
        joined = [f"link set many{number} master {BRIDGE} up" for number in range(300)]
        await asyncio.to_thread(configure, node.node.netns, *joined)
        await until(lambda: guarded_ports(node) == 302, 5)


async def test_what_cannot_be_guarded_is_told_and_taken_back(
    node: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "LOOK", 0.05)
    status = Status(node="n")
    nft(node, "add table bridge netpol")
    async with watching(node, status):
        await until(lambda: [found.kind for found in status.bypassed()] == ["bridge-tags"])
        nft(node, "delete table bridge netpol")
        await until(lambda: not status.bypassed())
        assert through(node) == []


def test_findings_of_two_are_told_together() -> None:
    status = Status(node="n")
    ways = guards.Ways(status)
    one, two = (Finding(kind, "s", "t", Severity.BYPASSED) for kind in ("a", "b"))
    ways.tell("second", [two])
    ways.tell("first", [one])
    assert status.bypassed() == [one, two]
    ways.tell("second", [])
    assert status.bypassed() == [one]


async def test_a_canary_whose_device_was_replaced_ends_nothing(
    node: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "AGAIN", 0.05)
    monkeypatch.setattr(guards, "PROBE", 0.05)
    status = Status(node="n")
    status.complete = True
    watch = guards.watch_canary(node.node.netns, status, wanted=False)
    task = asyncio.create_task(watch)
    try:
        await until(lambda: status.probe is not None and status.probe.ok is not None)
        configure(node.node.netns, "link del netpolc0", "link add netpolc0 type bridge")
        await until(lambda: "another kind" in (status.probe.reason if status.probe else ""))
        assert not task.done()
        configure(node.node.netns, "link del netpolc0")
        await until(lambda: status.probe is not None and status.probe.ok is not None)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path)
    try:
        await made.start()
        async with httpx.AsyncClient(base_url=made.url, trust_env=False) as http:
            api = Api(http)
            await api.namespace("a")
            await api.isolate("a", "on")
            await api.pod(PodSpec("a", "two", {}, TWO))
        yield made
    finally:
        await made.stop()


@pytest.mark.parametrize("end", ["keep", "open", "killed"])
async def test_it_comes_with_the_enforcer_and_goes_with_cleanup(
    node: World, server: Server, tmp_path: Path, end: str
) -> None:
    nft(node, "delete table inet netpol")
    on_exit = ("--on-exit", "open") if end == "open" else ()
    enforcer = EnforcerProcess(
        tmp_path,
        server=server.url,
        netns=node.node.netns,
        arguments=["--canary", "off", *on_exit],
    )
    try:
        await enforcer.start()
        await until(lambda: guarded_ports(node) == 2)
        assert through(node) == []
        node.plug("three", ("10.66.0.13", "fd66::13"), gateways=GATEWAYS)
        await until(lambda: guarded_ports(node) == 3)
        assert through(node, "three") == []
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(f"{enforcer.url}/readyz")).status_code == 200
        if end == "killed":
            enforcer.send_signal(signal.SIGKILL)
            await enforcer.wait()
        else:
            assert await enforcer.stop() == 0
    finally:
        await enforcer.stop()
    tables = nft(node, "list tables")
    if end == "open":
        assert "netpol" not in tables
        assert through(node) == ["plain", *TAGS]
        return
    assert through(node) == []
    done, said = await command("cleanup", "--netns", node.node.netns, "--state-dir", "")
    assert (done, said) == (0, "")
    assert "netpol" not in nft(node, "list tables")
