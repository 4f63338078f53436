"""A hundred thousand objects of 1 KB on etcd: a start, its memory, and a list of a few by a label.

The floor of a start is a bare list of all keys, page by page, which no start can do without; what
else it has to do, from the import of its modules on, is in its time and not in the floor's. A list
of the same few objects among few is what the same list among many is compared with; it has an etcd
of its own, because in a shared one the writes of one server are news to the other.
"""

from contextlib import closing
from pathlib import Path

from bench import connection, engines, policies, servers
from bench.bare_etcd import BareEtcd
from bench.connection import Connection
from bench.footprint import Memory
from bench.load import Load
from bench.pairs import Of, Outcome, Target, measure
from bench.scale import Scale
from bench.servers import Ours
from bench.wire import Wire

PREFIX = "/registry"  # the server's default
PICKED = f"{policies.EVERYWHERE}?labelSelector=pick%3Dyes"
START = Target(10.0, most=True, of=Of.OURS)  # seconds
RESIDENT = Target(400.0, most=True, of=Of.OURS)  # MB
COST = Target(3.0, most=True)


async def large(folder: Path, scale: Scale) -> list[Outcome]:
    """Seconds, MB, and milliseconds a list."""
    few = folder / "few"
    few.mkdir()
    with engines.started("etcd", folder) as etcd, BareEtcd(etcd.beside) as bare:
        bare.fill(PREFIX, scale.many, scale.picked)
        server = Ours(folder, *etcd.flags)
        try:
            # The first start makes the namespaces, and warms etcd up.
            await server.start_timed()
            outcomes = await _starts(server, bare, scale)
            with engines.started("etcd", few) as smaller:
                with BareEtcd(smaller.beside) as filling:
                    filling.fill(PREFIX, scale.few, scale.picked)
                async with servers.ours(few, *smaller.flags) as other:
                    return [*outcomes, _picked(server.url, other.url, scale)]
        finally:
            await server.stop()


async def _starts(server: Ours, bare: BareEtcd, scale: Scale) -> list[Outcome]:
    """Start it some times over; it runs afterwards."""
    ours, floor, ready, listed = [], [], [], []
    for _ in range(scale.starts):
        await server.stop()
        floor.append(bare.scan(PREFIX, scale.many))
        ours.append(await server.start_timed())
        ready.append(Memory.of(server.pid))
        with closing(Wire(server.url)) as wire:
            wire.ask(connection.request("GET", server.url, policies.EVERYWHERE), 200)
        listed.append(Memory.of(server.pid))
    name = f"{scale.many:,} objects"
    return [
        Outcome(f"start with {name}", "s", tuple(ours), tuple(floor), START),
        _memory(f"memory with {name}", ready, RESIDENT),
        _memory(f"memory with {name}, all listed once", listed, None),
    ]


def _memory(name: str, found: list[Memory], target: Target | None) -> Outcome:
    resident = tuple(memory.resident for memory in found)
    peak = max(memory.peak for memory in found)
    return Outcome(name, "MB", resident, target=target, note=f"peak {peak:.0f} MB")


def _picked(many: str, few: str, scale: Scale) -> Outcome:
    """Milliseconds of a list by label, one request after the other."""

    def load(url: str) -> Load:
        with Connection(url) as server:
            expected = server.ask("GET", PICKED)
        found = expected.count(b'"pick":"yes"')
        if found != scale.picked:
            raise RuntimeError(f"{found} objects found instead of {scale.picked}")
        return Load(url, PICKED, connections=1, expected=expected)

    with closing(load(many)) as ours, closing(load(few)) as floor:
        return measure(
            f"list {scale.picked} of {scale.many:,} objects by label",
            "ms",
            target=COST,
            rounds=scale.rounds,
            ours=lambda: 1_000 / ours.rate(scale.seconds),
            floor=lambda: 1_000 / floor.rate(scale.seconds),
        )
