"""Create over HTTP, with many requests in flight, on the engines that keep what they are given.

On etcd the floor is the compare-and-swap that a create is in the end, with as many in flight. On a
database it is an insert into one table, in transactions as large as those that the server really
made: they share one fsync, and their size is part of what is compared. What a transaction of a
single statement could insert is told beside it.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench import engines, policies, servers
from bench.bare_etcd import BareEtcd
from bench.bare_sql import BareSql
from bench.connection import Connection
from bench.engines import Engine
from bench.pairs import Outcome, Target, measure
from bench.scale import Scale
from bench.writers import Writers

NAMESPACE = "created"
TARGET = Target(0.35)
LONG = 3  # times a usual round on etcd: three processes need a while until they run evenly


class _Groups:
    """How many writes share a commit of the server, by its own count."""

    def __init__(self, url: str, engine: str) -> None:
        self._url = url
        self._of = f'apiserver_storage_engine_total{{engine="{engine}",kind='
        self._before = self._counted()
        self.sizes: list[float] = []

    def take(self) -> None:
        """Note the size since the last time."""
        now = self._counted()
        commits, writes = (new - old for new, old in zip(now, self._before, strict=True))
        self._before = now
        self.sizes.append(writes / max(commits, 1))

    @property
    def latest(self) -> int:
        return max(1, round(self.sizes[-1]))

    def _counted(self) -> tuple[float, float]:
        with Connection(self._url) as server:
            lines = server.ask("GET", "/metrics").decode().splitlines()
        found = dict(line.rsplit(" ", 1) for line in lines if line.startswith(self._of))
        commits, writes = (float(found[f'{self._of}"{kind}"}}']) for kind in ("commits", "writes"))
        return commits, writes


async def creates(engine: str, folder: Path, scale: Scale) -> list[Outcome]:
    """Creates per second, of distinct names in one namespace."""
    with engines.started(engine, folder) as place:
        async with servers.ours(folder, *place.flags) as server:
            (name,) = policies.fill(server.url, NAMESPACE, 1)
            with Connection(server.url) as connection:
                answer = connection.ask("GET", f"{policies.collection(NAMESPACE)}/{name}")
            value = policies.as_stored(answer)
            sources = [
                policies.creations(server.url, NAMESPACE, f"writer-{number:02}")
                for number in range(scale.in_flight)
            ]
            case = f"create on {engine}, {scale.in_flight} in flight"
            with Writers(server.url, sources) as writers:
                if engine == "etcd":
                    return [_on_etcd(case, place, value, writers, scale)]
                groups = _Groups(server.url, engine)
                return list(_on_sql(case, place, value, writers, groups, scale))


def _on_etcd(case: str, place: Engine, value: bytes, writers: Writers, scale: Scale) -> Outcome:
    seconds = LONG * scale.seconds
    with BareEtcd(place.beside) as etcd:
        return measure(
            case,
            "requests/s",
            target=TARGET,
            rounds=scale.rounds,
            ours=lambda: writers.rate(seconds),
            floor=lambda: etcd.swaps(value, in_flight=scale.in_flight, seconds=seconds),
        )


def _on_sql(
    case: str, place: Engine, value: bytes, writers: Writers, groups: _Groups, scale: Scale
) -> Iterator[Outcome]:
    with BareSql(place.beside) as sql:

        def ours() -> float:
            rate = writers.rate(scale.seconds)
            groups.take()
            return rate

        for batched, name, target in (
            (False, case, TARGET),
            (True, f"{case}, batched floor", None),
        ):
            outcome = measure(
                name,
                "requests/s",
                target=target,
                rounds=scale.rounds,
                ours=ours,
                floor=lambda batched=batched: sql.inserts(  # type: ignore[misc]
                    value, group=groups.latest, seconds=scale.seconds, batched=batched
                ),
            )
            yield replace(outcome, note=f"{median(groups.sizes):.1f} writes a commit")
