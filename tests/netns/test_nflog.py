"""Denied packets on their way from the kernel to lines and the list: real packets, real sets."""

import asyncio
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from enforcer.flows.listing import Element
from enforcer.flows.log import FlowLog
from enforcer.flows.recorder import LINES, RECORDS, Flows
from enforcer.nft import nflog
from enforcer.nft.nflog import NoLog, Reader
from policy import Protocol
from tests.enforcer import flow_world
from tests.enforcer.flow_world import CLUSTER
from tests.lab.world import OUTSIDE, World, world

CLONE_NEWNET = 0x40000000
FLOOD = 100_000  # packets
RESPONSIVE = 2.0  # seconds between two turns of the event loop, on a machine with other work to do
PODS = {pod.name: pod.ips for pod in CLUSTER.pods if len(pod.ips) == 2}
MEMORY = 32 << 20  # bytes: ten times what the records take
LIMIT = "limit rate 50/second burst 100 packets"

COUNT = """
  meta l4proto {{ tcp, udp, sctp }} update @{name}4 {{ ct original ip saddr . ct reply ip saddr . \
ct protocol . ct reply proto-src counter }}
  meta l4proto {{ tcp, udp, sctp }} update @{name}6 {{ ct original ip6 saddr . \
ct reply ip6 saddr . ct protocol . ct reply proto-src counter }}
  ct direction original {limit} log group 77 snaplen 96 prefix "netpol {prefix}"
"""
SET = """
 set {name}{version} {{
  type {address} . {address} . inet_proto . inet_service; flags dynamic,timeout; size 65536
  timeout 10m; counter
 }}
"""


def table(limit: str) -> str:
    """The sets and the two chains; `back` is isolated, `tool` in audit, the others open."""
    sets = "".join(
        SET.format(name=name, version=version, address=address)
        for name in ("denied", "wouldbe")
        for version, address in ((4, "ipv4_addr"), (6, "ipv6_addr"))
    )
    back, tool = (" . ".join(PODS[name]).split(" . ") for name in ("back", "tool"))
    return f"""table inet netpol {{
{sets}
 chain deny {{
{COUNT.format(name="denied", prefix="denied", limit=limit)}
  drop
 }}
 chain audit {{
{COUNT.format(name="wouldbe", prefix="audit", limit=limit)}
  accept
 }}
 chain forward {{
  type filter hook forward priority filter + 10; policy accept
  ct reply ip saddr vmap {{ {back[0]} : goto deny, {tool[0]} : goto audit }}
  ct reply ip6 saddr vmap {{ {back[1]} : goto deny, {tool[1]} : goto audit }}
 }}
}}
"""


def inside(netns: str, function: Callable[[], Any]) -> Any:
    """The result of a function that ran in a thread inside a network namespace."""

    def run() -> Any:
        handle = os.open(f"/run/netns/{netns}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(handle)
        return function()

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(run).result()


def send(made: World, source: str, script: str) -> subprocess.Popen[bytes]:
    """A process in a host's namespace; `script` sees the module `socket`."""
    host = made.hosts[source].netns
    code = f"import random, socket\n{script}"
    return subprocess.Popen(("ip", "netns", "exec", host, sys.executable, "-c", code))


def datagrams(address: str, ports: str, count: int) -> str:
    """A script that sends so many; `ports` is an expression."""
    return f"""
with socket.socket(socket.{"AF_INET6" if ":" in address else "AF_INET"}, socket.SOCK_DGRAM) as s:
    for _ in range({count}):
        try:
            s.sendto(b"x" * 32, ({address!r}, {ports}))
        except OSError:
            pass
"""


def connection(address: str, port: int) -> str:
    return f"""
try:
    socket.create_connection(({address!r}, {port}), 0.2)
except OSError:
    pass
"""


def resident() -> int:
    """The memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world(PODS) as built:
        yield built


@dataclass(slots=True)
class Heard:
    """A socket in the node's namespace, read by the event loop."""

    made: World
    flows: Flows
    reader: Reader
    lines: list[bytes]
    outputs: list[Callable[[bytes], object]]

    def said(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    async def until(self, count: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(10):
            while len(self.lines) < count:
                await asyncio.sleep(0.01)
        return self.said()

    def elements(self) -> list[Element]:
        """What the sets hold."""
        netns = self.made.node.netns
        listed = subprocess.run(
            ("ip", "netns", "exec", netns, "nft", "-j", "list", "table", "inet", "netpol"),
            check=True,
            capture_output=True,
        )
        found = []
        for entry in json.loads(listed.stdout)["nftables"]:
            if (listed_set := entry.get("set")) is None:
                continue
            for item in listed_set.get("elem", ()):
                value, counter = item["elem"], item["elem"]["counter"]
                client, pod, protocol, port = value["val"]["concat"]
                found.append(
                    Element(
                        listed_set["name"].rstrip("46"),
                        client,
                        pod,
                        protocol,
                        port,
                        counter["packets"],
                        counter["bytes"],
                        value["expires"],
                    )
                )
        return found


@pytest.fixture
async def heard(made: World, request: pytest.FixtureRequest) -> AsyncIterator[Heard]:
    """With the rules of the table; `indirect` gives another limit."""
    limit = getattr(request, "param", LIMIT)
    made.nft("add table inet netpol; delete table inet netpol\n" + table(limit))
    source = inside(made.node.netns, nflog.open_socket)
    lines: list[bytes] = []
    outputs: list[Callable[[bytes], object]] = [lines.append]
    flows = Flows(view=flow_world.World(), tell=lambda line: [output(line) for output in outputs])
    loop = asyncio.get_running_loop()
    reader = Reader(source, flows.see)
    loop.add_reader(source, reader.read)
    try:
        yield Heard(made, flows, reader, lines, outputs)
    finally:
        loop.remove_reader(source)
        source.close()
        made.nft("delete table inet netpol")


async def test_denied_and_would_be_denied_flows_are_said_with_their_reasons(heard: Heard) -> None:
    begun = time.time()
    back, tool = PODS["back"], PODS["tool"]
    sent = [
        send(heard.made, "front", connection(back[0], 81)),
        send(heard.made, "outside", connection(back[1], 80)),
        send(heard.made, "tool", datagrams(back[0], "53", 1)),
        send(heard.made, "outside", datagrams(tool[1], "53", 1)),
    ]
    said = await heard.until(4)
    for process in sent:
        assert await asyncio.to_thread(process.wait) == 0
    found = {
        (line["verdict"], line["source"], line["destination"], line["protocol"], line["port"]): (
            (line["nearestMiss"] or {}).get("miss")
        )
        for line in said
    }
    assert found == {
        ("denied", "shop/front", "shop/back", Protocol.TCP, 81): (
            "allows the source, but not the port"
        ),
        ("denied", OUTSIDE[1], "shop/back", Protocol.TCP, 80): (
            "allows the port, but not the source"
        ),
        ("denied", "lab/tool", "shop/back", Protocol.UDP, 53): (
            "allows neither the source nor the port"
        ),
        ("audited", OUTSIDE[1], "lab/tool", Protocol.UDP, 53): None,
    }
    # The kernel says when the packet came.
    assert {line["since"][:4] for line in said} == {time.strftime("%Y", time.gmtime(begun))}
    assert (heard.reader.lost, heard.reader.unreadable) == (0, 0)


async def test_the_list_joins_the_sets_and_the_records(heard: Heard) -> None:
    back = PODS["back"]
    sent = send(heard.made, "front", datagrams(back[0], "9000", 7) + datagrams(back[1], "9001", 3))
    assert await asyncio.to_thread(sent.wait) == 0
    await heard.until(2)
    reports = heard.flows.merge(heard.elements(), namespace="shop")
    assert {(report["port"], report["count"], report["source"]) for report in reports} == {
        (9000, 7, "shop/front"),
        (9001, 3, "shop/front"),
    }
    for report in reports:
        assert report["since"] <= report["last"]


async def test_packets_without_ports_are_said_though_no_set_holds_them(heard: Heard) -> None:
    sent = send(
        heard.made,
        "front",
        f"""
with socket.socket(socket.AF_INET, socket.SOCK_RAW, 47) as s:
    s.sendto(bytes(8), ({PODS["back"][0]!r}, 0))
""",
    )
    assert await asyncio.to_thread(sent.wait) == 0
    (line,) = await heard.until(1)
    assert (line["protocol"], line["port"]) == ("GRE", None)
    assert heard.elements() == []
    assert [report["protocol"] for report in heard.flows.merge([])] == ["GRE"]


@pytest.mark.parametrize("heard", [LIMIT, ""], indirect=True, ids=["limited", "unlimited"])
async def test_a_flood_of_ports_stays_bounded_and_holds_nobody_up(
    heard: Heard, tmp_path: Path
) -> None:
    """With a log that nobody reads, and even if the kernel did not limit what it logs."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    unread = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    log = FlowLog(str(pipe), waiting=10)
    try:
        log.write(b"x" * 65_000 + b"\n")  # the pipe is full from the start
        heard.outputs.append(log.write)
        sent = send(
            heard.made,
            "outside",
            datagrams(PODS["back"][0], "random.randrange(1, 65536)", FLOOD),
        )
        before = resident()
        begun = turn = time.monotonic()
        longest = 0.0
        while sent.poll() is None or time.monotonic() - begun < 3:
            await asyncio.sleep(0.01)
            longest, turn = max(longest, time.monotonic() - turn), time.monotonic()
        seconds = int(time.monotonic() - begun) + 1
        await asyncio.sleep(1.1)
        heard.flows.tick()
    finally:
        log.close(patience=0.1)
        os.close(unread)
    assert sent.returncode == 0
    assert longest < RESPONSIVE
    assert resident() - before < MEMORY
    assert log.dropped
    said = heard.said()
    told = [line for line in said if "leftOut" not in line]
    assert LINES <= len(told) <= LINES * (seconds + 2)
    assert len(said) - len(told) <= seconds + 2
    assert sum(line["leftOut"] for line in said if "leftOut" in line) == heard.flows.left_out > 0
    assert len(heard.flows) <= RECORDS
    reports = heard.flows.merge(heard.elements(), limit=1000)
    assert len(reports) == 1000
    assert {report["destination"] for report in reports} == {"shop/back"}


def test_a_group_that_is_taken_is_said_so(made: World) -> None:
    def twice() -> None:
        with nflog.open_socket(78), nflog.open_socket(78):
            pass

    with pytest.raises(NoLog, match=r"NFLOG group 78 is taken by netlink port \d+"):
        inside(made.node.netns, twice)


def test_a_group_is_free_again_when_its_socket_is_closed(made: World) -> None:
    def again() -> list[bool]:
        found = []
        for _ in range(2):
            with nflog.open_socket(79) as opened:
                found.append(opened.getblocking())
        return found

    assert inside(made.node.netns, again) == [False, False]


def test_who_may_not_listen_is_told_so(made: World) -> None:
    code = "from enforcer.nft import nflog\nnflog.open_socket(80)"
    done = subprocess.run(
        (
            *("ip", "netns", "exec", made.node.netns),
            *("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--reuid=65534"),
            *(sys.executable, "-c", code),
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "NoLog: NFLOG group 80: [Errno 1] Operation not permitted" in done.stderr
