"""A private world of network namespaces: a node, its pods, and a host outside.

Pods are routed, IPv4 and IPv6, as a CNI without a bridge does it, or ports of one Linux bridge, as
many others do. Nothing touches the machine's own namespace, and everything is gone at the end,
whatever happened.
"""

import itertools
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

GATEWAY4 = "169.254.1.1"
GATEWAY6 = "fe80::1"
BRIDGE = "br0"
NODE = ("10.66.0.1", "fd66::1")
OUTSIDE = ("203.0.113.9", "fd99::9")
_WORLDS = itertools.count()


@dataclass(frozen=True, slots=True)
class Host:
    """A namespace with its addresses; `ips` are IPv4 and IPv6."""

    name: str
    netns: str
    ips: tuple[str, ...]


@dataclass(slots=True)
class World:
    """`hosts` are the pods and `outside`, by name; `links` are the node's devices to them."""

    prefix: str
    node: Host
    hosts: dict[str, Host] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def attach(self, name: str, ips: tuple[str, ...]) -> Host:
        """Add a host behind the node."""
        host, link = self._wired(name, ips)
        netns = host.netns
        for where, device in ((self.node.netns, link), (netns, "eth0")):
            sysctl(where, {f"net.ipv6.conf.{device}.accept_dad": "0"})
        configure(
            self.node.netns,
            f"addr add {GATEWAY4}/32 dev {link}",
            f"addr add {GATEWAY6}/64 dev {link} nodad",
            f"link set {link} up",
        )
        configure(
            netns,
            "link set lo up",
            "link set eth0 up",
            *(f"addr add {ip}/{_bits(ip)} dev eth0{_nodad(ip)}" for ip in ips),
            f"route add {GATEWAY4} dev eth0 scope link",
            f"route add default via {GATEWAY4}",
            f"-6 route add default via {GATEWAY6} dev eth0",
        )
        configure(
            self.node.netns,
            *(f"route add {ip}/{_bits(ip)} dev {link} src {self._own(ip)}" for ip in ips),
        )
        return host

    def plug(self, name: str, ips: tuple[str, ...], *, gateways: tuple[str, ...]) -> Host:
        """Add a host at the bridge of the node, whose own addresses there are the gateways."""
        if not self.links:
            configure(self.node.netns, f"link add {BRIDGE} type bridge", f"link set {BRIDGE} up")
            lines = (f"addr add {ip}/{_net(ip)} dev {BRIDGE}{_nodad(ip)}" for ip in gateways)
            configure(self.node.netns, *lines)
        host, link = self._wired(name, ips)
        netns = host.netns
        sysctl(netns, {"net.ipv6.conf.eth0.accept_dad": "0"})
        configure(
            self.node.netns,
            f"link set {link} master {BRIDGE} up",
            f"link set {link} type bridge_slave hairpin on",
        )
        configure(
            netns,
            "link set lo up",
            "link set eth0 up",
            *(f"addr add {ip}/{_net(ip)} dev eth0{_nodad(ip)}" for ip in ips),
        )
        configure(netns, *(f"route add default via {ip} dev eth0" for ip in gateways))
        return host

    def _wired(self, name: str, ips: tuple[str, ...]) -> tuple[Host, str]:
        """A namespace, and a pair of devices between it and the node; the node's is named."""
        netns = f"{self.prefix}-{name}"
        _run("ip", "netns", "add", netns)
        host = self.hosts[name] = Host(name, netns, ips)
        link = self.links[name] = f"{self.prefix}v{len(self.links) + 1}"
        ends = f"netns {self.node.netns} type veth peer name eth0 netns {netns}"
        configure("", f"link add {link} {ends}")
        return host, link

    def bridge_calls(self, *, on: bool) -> None:
        """Whether the node's packet filter sees what goes from port to port of its bridge."""
        names = ("iptables", "ip6tables")
        settings = {f"net.bridge.bridge-nf-call-{name}": str(int(on)) for name in names}
        sysctl(self.node.netns, settings)

    def _own(self, ip: str) -> str:
        return next(own for own in self.node.ips if (":" in own) == (":" in ip))

    def nft(self, commands: str) -> None:
        """Load nft commands in the node's namespace."""
        _run("ip", "netns", "exec", self.node.netns, "nft", "-f", "-", stdin=commands)

    def flush_conntrack(self) -> None:
        """Forget every connection in the node's namespace."""
        _run("ip", "netns", "exec", self.node.netns, "conntrack", "-F")


@contextmanager
def world(pods: Mapping[str, tuple[str, ...]]) -> Iterator[World]:
    """A node with pods at these addresses, and a host outside; removed at the end."""
    with bare_node("node", NODE, NODE) as made:
        for name, ips in pods.items():
            made.attach(name, ips)
        made.attach("outside", OUTSIDE)
        yield made


@contextmanager
def bare_node(name: str, ips: tuple[str, ...], loopback: tuple[str, ...]) -> Iterator[World]:
    """A node that forwards, with some of its addresses at its loopback device; and no pods yet."""
    prefix = f"np{os.getpid()}x{next(_WORLDS)}"
    netns = f"{prefix}-{name}"
    made = World(prefix, Host(name, netns, ips))
    try:
        _run("ip", "netns", "add", netns)
        sysctl(
            netns,
            {
                "net.ipv4.ip_forward": "1",
                "net.ipv6.conf.all.forwarding": "1",
                "net.ipv4.conf.all.rp_filter": "0",
                "net.ipv4.conf.default.rp_filter": "0",
            },
        )
        configure(
            netns,
            "link set lo up",
            *(f"addr add {ip}/{_bits(ip)} dev lo{_nodad(ip)}" for ip in loopback),
        )
        yield made
    finally:
        for gone in (netns, *(host.netns for host in made.hosts.values())):
            subprocess.run(("ip", "netns", "del", gone), check=False, capture_output=True)


def _bits(ip: str) -> int:
    return 128 if ":" in ip else 32


def _nodad(ip: str) -> str:
    return " nodad" if ":" in ip else ""


def _net(ip: str) -> int:
    return 64 if ":" in ip else 24


def configure(netns: str, *commands: str) -> None:
    """`ip` commands in a namespace, in one process a family."""
    where = ("-n", netns) if netns else ()
    for family in ("-4", "-6"):
        chosen = [
            command.removeprefix("-6 ")
            for command in commands
            if (command.startswith("-6 ") or ":" in command.partition(" dev ")[0])
            == (family == "-6")
        ]
        if chosen:
            _run("ip", *where, family, "-batch", "-", stdin="\n".join(chosen) + "\n")


def sysctl(netns: str, values: Mapping[str, str]) -> None:
    """Settings of a namespace."""
    settings = [f"{key}={value}" for key, value in values.items()]
    _run("ip", "netns", "exec", netns, "sysctl", "-q", "-w", *settings)


def _run(*command: str, stdin: str = "") -> None:
    done = subprocess.run(command, input=stdin, text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}\n{stdin}")
