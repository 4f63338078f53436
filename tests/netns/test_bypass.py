"""What may take packets round the policies: found where it does, and not where it cannot."""

import ctypes
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enforcer.host import bypass, devices, foreign, rtnetlink
from enforcer.host.bypass import Detector, Finding, Severity
from enforcer.host.canary import Canary
from enforcer.host.foreign import Hook
from enforcer.host.netlink import ROUTE, Netlink
from enforcer.host.rtnetlink import Link
from enforcer.nft.wire import attribute, nested, number, text
from tests.lab.inside import within
from tests.lab.world import World, world

PORT = 9000
PODS = ("10.66.0.11", "10.66.0.12")
DENY = """
table inet netpol {
  chain forward {
    type filter hook forward priority filter + 10; policy accept;
    ct reply ip saddr 10.66.0.12 drop
    ct reply ip6 saddr fd66::12 drop
  }
}
"""
CLOSED = """
table inet netpol {
  chain forward {
    type filter hook forward priority filter + 10; policy drop;
  }
}
"""


@pytest.fixture
def node() -> Iterator[World]:
    with world({}) as made:
        yield made


def findings(node: World, detector: Detector | None = None) -> list[Finding]:
    return within(node.node.netns, (detector or Detector()).findings)


def kinds(node: World) -> list[str]:
    return [finding.kind for finding in findings(node)]


def run(*command: str) -> str:
    return subprocess.run(command, check=True, text=True, capture_output=True).stdout


def inside(node: World, command: str, *more: str) -> str:
    return run("ip", "netns", "exec", node.node.netns, *command.split(), *more)


def arrives(node: World, source: str, address: str, target: str, received_at: str) -> bool:
    """Whether a datagram of the pod `source` to the address comes to the pod `target`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def made() -> socket.socket:
        return socket.socket(family, socket.SOCK_DGRAM)

    with (
        within(node.hosts[source].netns, made) as sender,
        within(node.hosts[target].netns, made) as receiver,
    ):
        receiver.bind((received_at, PORT))
        receiver.settimeout(0.5)
        sender.sendto(b"x", (address, PORT))
        try:
            return receiver.recv(8) == b"x"
        except TimeoutError:
            return False


def bridged(node: World) -> None:
    """Two pods at one bridge of the node."""
    commands = ["link add br0 type bridge", "link set br0 up"]
    for name, last in (("one", 11), ("two", 12)):
        ips = (f"10.66.0.{last}", f"fd66::{last}")
        host = node.attach(name, ips)
        link = node.links[name]
        commands += [f"addr flush dev {link}", f"link set {link} master br0"]
        for network in ("10.66.0.0/24", "fd66::/64"):
            run("ip", "-n", host.netns, "route", "add", network, "dev", "eth0")
    for command in commands:
        run("ip", "-n", node.node.netns, *command.split())


def calls(node: World, ipv4: int, ipv6: int) -> None:
    inside(node, "sysctl -qw", f"net.bridge.bridge-nf-call-iptables={ipv4}")
    inside(node, "sysctl -qw", f"net.bridge.bridge-nf-call-ip6tables={ipv6}")


def reach(node: World) -> tuple[bool, bool]:
    """Whether the one pod reaches the other, over IPv4 and over IPv6."""
    return (
        arrives(node, "one", "10.66.0.12", "two", "10.66.0.12"),
        arrives(node, "one", "fd66::12", "two", "fd66::12"),
    )


def test_a_bridge_past_which_packets_go_is_found_and_no_other(node: World) -> None:
    node.nft(DENY)
    bridged(node)
    calls(node, 1, 1)
    assert findings(node) == []
    assert reach(node) == (False, False)

    calls(node, 0, 0)
    (found,) = findings(node)
    assert (found.kind, found.subject, found.severity) == ("bridge", "bridge br0", "bypassed")
    assert found.text.endswith(
        "sysctl -w net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1"
    )
    assert reach(node) == (True, True)

    calls(node, 1, 0)
    (found,) = findings(node)
    assert found.text.endswith("; sysctl -w net.bridge.bridge-nf-call-ip6tables=1")
    assert reach(node) == (False, True)

    run(
        "ip",
        "-n",
        node.node.netns,
        *["link", "set", "br0", "type", "bridge", "nf_call_ip6tables", "1"],
    )
    assert findings(node) == []
    assert reach(node) == (False, False)

    calls(node, 0, 0)
    assert findings(node, Detector(ignored={"br0"})) == []


def test_a_bridge_without_pods_is_no_finding(node: World) -> None:
    calls(node, 0, 0)
    for command in (
        "link add br0 type bridge",
        "link add uplink type veth peer name wire",
        "link set uplink master br0",
    ):
        run("ip", "-n", node.node.netns, *command.split())
    assert findings(node) == []


def link(index: int, name: str, kind: str = "veth", master: int = 0, **more: object) -> Link:
    values: dict[str, object] = {"ready": True, "away": False, "xdp": False, "data": {}}
    return Link(index, name, kind, master, **(values | more))  # type: ignore[arg-type]


def test_bridges_without_br_netfilter_with_vlans_and_of_open_vswitch_are_found() -> None:
    settings = dict.fromkeys(devices.CALLS, True) | {devices.TAGGED: False}
    pod = link(2, "veth1", master=1, away=True)
    plain, vlans = link(1, "br0", "bridge"), link(1, "br0", "bridge", data={7: b"\1"})
    assert devices.bridges([plain, pod], settings) == []
    (absent,) = devices.bridges([plain, pod], None)
    assert "modprobe br_netfilter && sysctl -w" in absent.text
    (tagged,) = devices.bridges([vlans, pod], settings)
    assert tagged.kind == "bridge-vlan"
    assert tagged.text.endswith("sysctl -w net.bridge.bridge-nf-filter-vlan-tagged=1")
    assert devices.bridges([vlans, pod], settings | {devices.TAGGED: True}) == []
    (switch,) = devices.bridges([link(1, "ovs-system", "openvswitch"), pod], settings)
    assert switch.severity is Severity.BYPASSED


HARMLESS = """
table inet netpol_old {
  chain prerouting {
    type filter hook prerouting priority -300;
    notrack
  }
}
table inet firewall {
  chain prerouting {
    type filter hook prerouting priority -150;
    notrack
    ip dscp set cs1
    ip ttl set 64
  }
  chain early {
    type filter hook prerouting priority -300;
    ip daddr set 10.66.0.12
  }
  chain dstnat {
    type nat hook prerouting priority -100;
    ip daddr 203.0.113.77 dnat ip to 10.66.0.12
  }
  chain forward {
    type filter hook forward priority -200;
    ct state established,related accept
    tcp dport 22 reject
    tcp dport 80 synproxy mss 1460 wscale 7
    accept
  }
  chain output {
    type filter hook output priority -300;
    notrack
  }
}
table inet asleep {
  flags dormant
  chain prerouting {
    type filter hook prerouting priority -300;
    notrack
  }
}
table inet unhooked {
  chain somewhere {
    notrack
  }
}
table netdev shaping {
  chain ingress {
    type filter hook ingress device lo priority 0;
    fwd to lo
  }
}
table bridge others {
  chain forward {
    type filter hook forward priority 0;
    accept
  }
}
"""


def test_what_cannot_take_packets_from_the_policies_is_no_finding(node: World) -> None:
    node.nft(HARMLESS)
    assert findings(node) == []


def test_rules_are_left_as_they_are(node: World) -> None:
    node.nft(HARMLESS)
    before = inside(node, "nft -a list ruleset")
    findings(node)
    assert inside(node, "nft -a list ruleset") == before


FOREIGN = {
    "notrack": (
        "table ip raw, chain PREROUTING",
        "table ip raw {\nchain PREROUTING {\ntype filter hook prerouting priority -300;\n"
        "ip daddr 10.0.0.0/8 notrack\n}\n}",
    ),
    "tproxy": (
        "table ip proxy, chain divert",
        "table ip proxy {\nchain divert {\nmeta l4proto tcp tproxy to :8080\n}\n"
        "chain prerouting {\ntype filter hook prerouting priority -150;\njump divert\n}\n}",
    ),
    "dup": (
        "table ip mirror, chain forward",
        "table ip mirror {\nchain forward {\ntype filter hook forward priority 0;\n"
        "dup to 10.66.0.11\n}\n}",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_rule_to_know_of_is_a_warning(node: World, kind: str) -> None:
    subject, commands = FOREIGN[kind]
    node.nft(commands)
    (found,) = findings(node)
    assert (found.kind, found.subject) == (kind, subject)
    assert found.severity is Severity.WARNING
    assert "\n" not in found.text


def test_an_address_that_is_written_over_after_conntrack_bypasses(node: World) -> None:
    for name, address in zip(("one", "two"), PODS, strict=True):
        node.attach(name, (address, f"fd66::{address[-2:]}"))
    node.nft(DENY)
    assert not arrives(node, "one", "10.66.0.12", "two", "10.66.0.12")
    node.nft(
        "table ip odd {\nchain prerouting {\ntype filter hook prerouting priority -150;\n"
        "ip daddr 10.66.0.99 ip daddr set 10.66.0.12\n}\n}"
    )
    assert arrives(node, "one", "10.66.0.99", "two", "10.66.0.12")
    (found,) = findings(node)
    assert (found.kind, found.severity) == ("rewrite", Severity.BYPASSED)


async def test_fwd_to_a_pod_bypasses_and_the_canary_tells(node: World) -> None:
    canary = Canary(netns=node.node.netns)
    try:
        await canary.start()
        node.nft(CLOSED)
        assert not (await canary.probe()).denied_passed
        node.nft(
            "table netdev fast {\nchain ingress {\n"
            "type filter hook ingress device netpolc0 priority 0;\n"
            "ip daddr 169.254.77.3 fwd ip to 169.254.77.3 device netpolc1\n}\n}"
        )
        assert (await canary.probe()).text == "denied traffic passes: IPv4"
        (found,) = findings(node)
        assert (found.kind, found.subject) == ("fwd", "table netdev fast, chain ingress")
        assert found.severity is Severity.BYPASSED
    finally:
        await canary.close()


MATCH = "protocol all u32 match u32 0 0 action mirred"


def test_redirects_of_tc_to_pods_are_found_and_others_not(node: World) -> None:
    node.attach("one", (PODS[0], "fd66::11"))
    pod = node.links["one"]
    inside(node, "ip link add shape type ifb")
    inside(node, f"tc qdisc add dev {pod} clsact")
    # As the bandwidth plugin of CNI does it.
    inside(node, f"tc filter add dev {pod} ingress {MATCH} egress redirect dev shape")
    inside(node, f"tc filter add dev {pod} egress {MATCH} ingress redirect dev {pod}")
    assert findings(node) == []
    inside(node, "tc qdisc add dev lo ingress")
    inside(node, f"tc filter add dev lo ingress {MATCH} egress mirror dev {pod}")
    (mirror,) = findings(node)
    assert (mirror.kind, mirror.subject, mirror.severity) == ("mirror", "device lo", "warning")
    inside(node, f"tc filter add dev lo ingress {MATCH} egress redirect dev {pod}")
    assert [(found.kind, str(found.severity)) for found in findings(node)] == [
        ("mirror", "warning"),
        ("redirect", "bypassed"),
    ]
    assert findings(node, Detector(ignored={pod})) == []


def test_a_redirect_behind_a_class_is_found(node: World) -> None:
    node.attach("one", (PODS[0], "fd66::11"))
    pod = node.links["one"]
    inside(node, "tc qdisc add dev lo root handle 1: htb")
    inside(node, f"tc filter add dev lo parent 1: {MATCH} egress redirect dev {pod}")
    assert kinds(node) == ["redirect"]


def test_programs_at_tc_are_a_warning_once(node: World) -> None:
    for number_ in range(4):
        inside(node, f"ip link add d{number_} type ifb")
        inside(node, f"tc qdisc add dev d{number_} clsact")
        inside(node, f"tc filter add dev d{number_} ingress bpf da bytecode", "1,6 0 0 0,")
    (found,) = findings(node)
    assert (found.kind, found.severity) == ("tc-bpf", Severity.WARNING)
    assert found.subject == "device d0, d1, d2 and 1 more"


def test_a_classifier_that_only_classifies_is_no_finding(node: World) -> None:
    inside(node, "tc qdisc add dev lo clsact")
    inside(node, "tc filter add dev lo ingress bpf bytecode", "1,6 0 0 0,")
    assert findings(node) == []


X86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="bpf(2) has another number")
SCHED_CLS, XDP = 3, 6


def bpf(command: int, *fields: bytes) -> int:
    asked = ctypes.create_string_buffer(b"".join(fields).ljust(128, b"\0"))
    result = ctypes.CDLL(None, use_errno=True).syscall(321, command, asked, 128)
    assert result >= 0, os.strerror(ctypes.get_errno())
    return int(result)


def program(kind: int, verdict: int) -> int:
    """The descriptor of a program that always says the same: r0 = verdict; exit."""
    code = struct.pack("=BBhi", 0xB7, 0, 0, verdict) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    held = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    return bpf(5, struct.pack("=IIQQ", kind, 2, *map(ctypes.addressof, held)))


@X86
def test_a_program_at_xdp_is_a_warning(node: World) -> None:
    node.attach("one", (PODS[0], "fd66::11"))
    pod = node.links["one"]
    passes = program(XDP, 2)

    def attach() -> None:
        links = Netlink(ROUTE)
        asked = nested(43, attribute(1, struct.pack("=i", passes)))  # IFLA_XDP, IFLA_XDP_FD
        links.run(rtnetlink.NEWLINK, rtnetlink.named(pod) + asked)
        links.close()

    within(node.node.netns, attach)
    os.close(passes)
    (found,) = findings(node)
    assert (found.kind, found.subject, found.severity) == ("xdp", f"device {pod}", "warning")


@X86
def test_a_program_that_only_bpf_knows_of_is_a_warning(node: World) -> None:
    passes = program(SCHED_CLS, -1)

    def attach() -> None:
        bpf(8, struct.pack("=III", socket.if_nametoindex("lo"), passes, 46))

    within(node.node.netns, attach)
    os.close(passes)
    (found,) = findings(node)
    assert (found.kind, found.subject, found.severity) == ("tc-bpf", "device lo", "warning")


def head(family: int) -> bytes:
    return bytes((family, 0, 0, 0))


def expression(name: str, *data: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *data))


def rule(*expressions: bytes, chain: str = "FORWARD") -> bytes:
    return head(2) + text(1, "filter") + text(2, chain) + nested(4, *expressions)


def found_in(body: bytes, hook: Hook, family: str = "ip") -> list[str]:
    found = foreign.rules(
        [body], table=(family, "filter"), hooks={"FORWARD": hook}, leads=lambda index: index == 7
    )
    return [finding.kind for finding in found]


def test_a_queue_matters_before_us_only() -> None:
    """This kernel has no `queue`; the layout is that of <linux/netfilter/nf_tables.h>."""
    for body in (
        rule(expression("queue", number(1, 0, 2))),
        rule(expression("target", text(1, "NFQUEUE"), number(2, 1), attribute(3, bytes(8)))),
    ):
        assert found_in(body, Hook(2, 0)) == ["queue"]
        assert found_in(body, Hook(2, 10)) == ["queue"]
        assert found_in(body, Hook(2, 11)) == []
        assert found_in(body, Hook(0, -300)) == []
        assert found_in(body, Hook(2, -200), "bridge") == ["queue"]
        assert found_in(body, Hook(2, 1), "bridge") == []


def test_targets_of_iptables_are_read() -> None:
    def target(name: str, info: bytes = bytes(40)) -> bytes:
        return rule(expression("target", text(1, name), number(2, 2), attribute(3, info)))

    raw, nat = Hook(0, -300), Hook(0, -100)
    assert found_in(target("CT", struct.pack("=H", 1).ljust(88, b"\0")), raw) == ["notrack"]
    assert found_in(target("CT"), raw) == []
    assert found_in(target("TPROXY"), Hook(0, -150)) == ["tproxy"]
    assert found_in(target("TEE"), raw) == ["dup"]
    assert found_in(target("DNAT"), nat) == []


def test_a_device_that_comes_from_a_map_may_be_any() -> None:
    def fwd(*before: bytes) -> bytes:
        return rule(*before, expression("fwd", number(1, 1)))

    def device(index: int) -> bytes:
        return expression(
            "immediate", number(1, 1), nested(2, attribute(1, struct.pack("=I", index)))
        )

    ingress = Hook(0, 0)
    assert found_in(fwd(device(7)), ingress, "netdev") == ["fwd"]
    assert found_in(fwd(device(8)), ingress, "netdev") == []
    assert found_in(fwd(), ingress, "netdev") == ["fwd"]


def test_a_flowtable_counts_once_a_rule_adds_to_it() -> None:
    """This kernel has none; the layout is that of <linux/netfilter/nf_tables.h>."""

    def flowtable(use: int) -> bytes:
        hook = nested(3, number(1, 0), number(2, 0), nested(3, text(1, "eth0"), text(1, "eth1")))
        return head(1) + text(1, "fast") + text(2, "ft") + hook + number(4, use)

    among = [("inet", "fast")]
    assert foreign.flowtables([flowtable(0)], among=among) == []
    assert foreign.flowtables([flowtable(2)], among=[]) == []
    (found,) = foreign.flowtables([flowtable(2)], among=among)
    assert (found.subject, found.severity) == ("table inet fast, flowtable ft", "bypassed")


PIECES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"\1\0notrack\0", b"\1\0fwd\0", b"\1\0CT\0", b"\x08\0\5\0", b"\x08\0\1\x80"]),
)


@given(st.lists(PIECES, max_size=12).map(b"".join))
def test_rules_of_unknown_kinds_are_no_error(content: bytes) -> None:
    for body in (
        content,
        rule(content),
        rule(nested(1, content)),
        rule(expression("fwd", content)),
    ):
        found_in(body, Hook(0, -300), "netdev")
        foreign.tables([body], own="netpol")
        foreign.hooks([body])
        foreign.flowtables([body], among=[("ip", "filter")])


def test_rules_are_read_when_they_have_changed_and_not_all_the_time(
    node: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.nft(FOREIGN["notrack"][1])
    now, read, reads = [0.0], bypass._read, []

    def slow(*arguments: Any) -> list[Finding]:
        reads.append(now[0])
        now[0] += 0.5
        return read(*arguments)

    monkeypatch.setattr(bypass, "_read", slow)
    detector = Detector(clock=lambda: now[0])
    assert [len(findings(node, detector)) for _ in range(3)] == [1, 1, 1]
    assert reads == [0.0]
    node.nft("delete table ip raw")
    now[0] = 24.9
    assert len(findings(node, detector)) == 1
    now[0] = 25.0
    assert findings(node, detector) == []
    assert reads == [0.0, 25.0]


ASK = """
from enforcer.host.bypass import Detector
try:
    Detector().findings()
except OSError as error:
    print(error.strerror)
"""


def test_without_the_capability_the_kernel_refuses(node: World) -> None:
    without = "setpriv --inh-caps=-net_admin --bounding-set=-net_admin"
    assert inside(node, without, sys.executable, "-c", ASK) == "Operation not permitted\n"
