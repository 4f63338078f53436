"""What the ruleset costs a packet that is allowed, and that it costs the same in a large cluster.

The floor is connection tracking alone, which any of these rulesets needs. Each ruleset is in a node
of its own with a link to a client and one to a server; they take turns, a slice of time each, and
each turn of all gives one ratio. Ours is what the compiler makes and the table loads.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import linear
from bench.pairs import Outcome, Target
from bench.population import NODE, Objects, address, namespace, pod, policy
from bench.scale import Scale
from bench.sender import Sender, Way
from enforcer.compile import Compiler
from enforcer.model import Model
from enforcer.nft.kernel import Kernel
from enforcer.table import Table
from tests.lab.world import World, world

COST = Target(1.35, most=True)
FLAT = Target(1.05, most=True)
SLICE = 0.02  # seconds
CONNECTS, CONNECT_TURNS = 100, 11  # of a turn, and turns
PORT = 9_000  # of the first application
SPACE = "space"
PEERS = 1 << 20  # where their addresses begin
APPS = 10
CLIENT, SERVER = "10.66.0.2", "10.66.0.3"
CONNTRACK = """
table inet floor {
  chain forward {
    type filter hook forward priority filter + 10; policy accept;
    ct state invalid counter
  }
}
"""


async def packets(folder: Path, scale: Scale) -> list[Outcome]:
    """Nanoseconds a packet; microseconds until a connection stands."""
    one, some, many = scale.peers
    few, usual, crowd = scale.local
    ours = [(one, usual), (many, usual), (some, few), (some, crowd)]
    names = [f"{_counted(peers, 'peer')}, {local:,} local pods" for peers, local in ours]
    lines = [f"linear rules, {local:,} local pods" for local in scale.local]
    async with contextlib.AsyncExitStack() as stack:
        ways = {}
        node = _node(stack)
        node.nft(CONNTRACK)
        ways["floor"] = _way(node)
        for name, size in zip(names, ours, strict=True):
            node = _node(stack)
            await _load(stack, _cluster(*size), node)
            ways[name] = _way(node)
        for name, local in zip(lines, scale.local, strict=True):
            node = _node(stack)
            node.nft(linear.ruleset(_cluster(some, local)))
            ways[name] = _way(node)
        sender = stack.enter_context(Sender(list(ways.values())))
        took = _turns(list(ways), scale.slices, lambda way: sender.packet(way, SLICE))
        connected = _turns(list(ways), CONNECT_TURNS, lambda way: sender.connect(way, CONNECTS))
    floor = took["floor"]
    return [
        *(Outcome(f"packet, {name}", "ns", took[name], floor, COST) for name in names),
        _flat(f"packet, {many:,} peers by {one:,}", took[names[1]], took[names[0]]),
        _flat(f"packet, {crowd:,} local pods by {few:,}", took[names[3]], took[names[2]]),
        *(Outcome(f"packet, {name}", "ns", took[name], floor) for name in lines),
        *(
            Outcome(f"connect, {name}", "us", connected[name], connected["floor"])
            for name in (names[1], names[3], lines[-1])
        ),
    ]


def _turns(
    names: Sequence[str], turns: int, measure: Callable[[int], float]
) -> dict[str, tuple[float, ...]]:
    """What each turn found, by name; one turn before them warms all up and does not count."""
    found = [[measure(way) for way in range(len(names))] for _ in range(turns + 1)][1:]
    return dict(zip(names, zip(*found, strict=True), strict=True))


def _flat(name: str, large: tuple[float, ...], small: tuple[float, ...]) -> Outcome:
    return Outcome(name, "ns", large, small, FLAT)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _node(stack: contextlib.AsyncExitStack) -> World:
    return stack.enter_context(world({"client": (CLIENT,), "server": (SERVER,)}))


def _way(node: World) -> Way:
    return Way(node.hosts["client"].netns, node.hosts["server"].netns, SERVER, PORT)


async def _load(stack: contextlib.AsyncExitStack, objects: Objects, node: World) -> None:
    compiler = Compiler(node=NODE)
    objects.tell(Model(compiler))
    compiler.take()
    kernel = Kernel(netns=node.node.netns)
    stack.callback(kernel.close)
    await Table(kernel).load(compiler.rules)


def _cluster(peers: int, local: int) -> Objects:
    """The client is one of so many peers, and the server the middle one of the local pods."""
    peer = {"role": "peer"}
    others = [
        pod(SPACE, f"peer-{number}", peer, address(number, PEERS)) for number in range(peers - 1)
    ]
    here = [
        pod(SPACE, f"pod-{number}", {"app": f"a{number % APPS}"}, address(number), node=NODE)
        for number in range(local - 1)
    ]
    server = pod(SPACE, "server", {"app": "a0"}, SERVER, node=NODE)
    return Objects(
        [namespace(SPACE)],
        [
            pod(SPACE, "client", peer, CLIENT),
            *others,
            *here[: local // 2],
            server,
            *here[local // 2 :],
        ],
        [
            policy(SPACE, f"policy-{app}", {"app": f"a{app}"}, [peer], PORT + app)
            for app in range(APPS)
        ],
    )
