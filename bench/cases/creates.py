"""Create over HTTP, with many requests in flight, on the engines that keep what they are given.

On etcd the floor is the compare-and-swap that a create is in the end, with as many in flight. On a
database it is an insert into one table in groups as large as those that the server really made:
a group shares one fsync, and its size is part of what is compared.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
            groups = None if engine == "etcd" else _Groups(server.url, engine)
            sources = [
                policies.creations(server.url, NAMESPACE, f"writer-{number:02}")
                for number in range(scale.in_flight)
            ]
            with (
                Writers(server.url, sources) as writers,
                _floor(place, value, groups, scale) as bare,
            ):

                def ours() -> float:
                    rate = writers.rate(scale.seconds)
                    if groups is not None:
                        groups.take()
                    return rate

                outcome = measure(
                    f"create on {engine}, {scale.in_flight} in flight",
                    "requests/s",
                    target=TARGET,
                    rounds=scale.rounds,
                    ours=ours,
                    floor=bare,
                )
    if groups is None:
        return [outcome]
    return [replace(outcome, note=f"{median(groups.sizes):.1f} writes a commit")]


@contextmanager
def _floor(
    place: Engine, value: bytes, groups: _Groups | None, scale: Scale
) -> Iterator[Callable[[], float]]:
    """How to measure a round of the floor."""
    if groups is None:
        with BareEtcd(place.beside) as etcd:
            yield lambda: etcd.swaps(value, in_flight=scale.in_flight, seconds=scale.seconds)
    else:
        with BareSql(place.beside) as sql:
            yield lambda: sql.inserts(value, group=groups.latest, seconds=scale.seconds)
