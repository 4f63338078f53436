"""Two nodes and a host outside on one network: pods are routed on the first, bridged on the second.

Each node is a `World`; a namespace of its own is the wire between them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tests.lab import world
from tests.lab.world import Host, World

WIRE = "wire0"
# The first two addresses of each are on the wire, the others are its pods' gateways.
NODES = {
    "node-1": ("192.0.2.1", "2001:db8::1", "10.66.0.1", "fd66::1"),
    "node-2": ("192.0.2.2", "2001:db8::2", "10.66.1.1", "fd66:1::1"),
}
OUTSIDE = ("192.0.2.9", "2001:db8::9")
RANGES = {"node-1": ("10.66.0.0/24", "fd66::/64"), "node-2": ("10.66.1.0/24", "fd66:1::/64")}
SERVICES = ("10.99.0.0/24", "fd66:99::/64")


@dataclass(frozen=True, slots=True)
class Site:
    """`hosts` are the nodes, the pods and `outside`, by name."""

    nodes: Mapping[str, World]
    outside: Host

    @property
    def hosts(self) -> dict[str, Host]:
        found = {"outside": self.outside}
        for node in self.nodes.values():
            found |= {node.node.name: node.node, **node.hosts}
        return found


@contextmanager
def site(pods: Mapping[str, Mapping[str, tuple[str, ...]]]) -> Iterator[Site]:
    """The pods' addresses by node; everything is removed at the end."""
    one, two = NODES
    with (
        world.bare_node("wire", (), ()) as wire,
        world.bare_node("outside", OUTSIDE, ()) as outside,
        world.bare_node(one, NODES[one], NODES[one][2:]) as first,
        world.bare_node(two, NODES[two], ()) as second,
    ):
        world.configure(wire.node.netns, f"link add {WIRE} type bridge", f"link set {WIRE} up")
        wire.bridge_calls(on=False)
        for number, each in enumerate((outside, first, second)):
            _connect(wire.node.netns, f"port{number}", each.node)
        for name, ips in pods[one].items():
            first.attach(name, ips)
        for name, ips in pods[two].items():
            second.plug(name, ips, gateways=NODES[two][2:])
        second.bridge_calls(on=True)
        _route(outside, (*RANGES[one], *SERVICES), NODES[one])
        _route(outside, RANGES[two], NODES[two])
        for node, other in ((first, two), (second, one)):
            _route(node, RANGES[other], NODES[other])
            _route(node, ("default", "default"), OUTSIDE)
        yield Site({one: first, two: second}, outside.node)


def _connect(wire: str, port: str, host: Host) -> None:
    add = f"link add {port} netns {wire} type veth peer name {WIRE} netns {host.netns}"
    world.configure("", add)
    world.configure(wire, f"link set {port} master {WIRE} up")
    lines = (f"addr add {ip}/{'64 nodad' if ':' in ip else '24'} dev {WIRE}" for ip in host.ips[:2])
    world.configure(host.netns, f"link set {WIRE} up", *lines)


def _route(host: World, targets: tuple[str, ...], via: tuple[str, ...]) -> None:
    lines = (
        f"route add {target} via {gateway}"
        for target, gateway in zip(targets, (*via[:2], *via[:2]), strict=False)
    )
    world.configure(host.node.netns, *lines)
