"""`python -m bench.soak`: write for minutes under watchers, and look for what grows.

Exit status 1: the server's memory or the store has grown after the first quarter of the run by more
than can be explained, or a watcher did not get every event in order. A `--quick` run is too short
for the first and judges the second only.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.soak.followers import Followers
    from bench.soak.verdict import Sample

ENGINES = ("sqlite", "postgresql", "etcd")
CATCH_UP = 60.0  # seconds that the watchers get for what they have not got at the end


@dataclass(frozen=True, slots=True)
class Plan:
    """`pace` is writes a second at the most: history is what was written within `retention`."""

    writes: int
    every: int
    objects: int
    watchers: int
    in_flight: int
    pace: float
    retention: str
    interval: str


FULL = Plan(
    writes=200_000,
    every=10_000,
    objects=1_000,
    watchers=50,
    in_flight=16,
    pace=1_000,
    retention="20s",
    interval="5s",
)
QUICK = Plan(
    writes=1_600,
    every=200,
    objects=100,
    watchers=5,
    in_flight=4,
    pace=0,
    retention="500ms",
    interval="100ms",
)


def main() -> None:
    from bench import runtime
    from bench.soak import verdict

    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--engine", choices=ENGINES, default="sqlite")
    parser.add_argument("--quick", action="store_true", help="a run of seconds")
    parser.add_argument("--minutes", type=float, default=30, help="give up after so many")
    options = parser.parse_args()
    runtime.prepare()
    plan = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        samples = asyncio.run(_soak(options.engine, Path(folder), plan, options.minutes * 60))
    print(f"each of {plan.watchers} watchers got all {plan.writes:,} events in order")
    if not options.quick and (grown := verdict.grown(samples)):
        print("; ".join(grown))
        sys.exit(1)


async def _soak(engine: str, folder: Path, plan: Plan, seconds: float) -> "Sequence[Sample]":
    """All samples. `RuntimeError` where it takes too long or a watcher misses something."""
    from bench import engines, policies, servers
    from bench.connection import Connection
    from bench.footprint import Memory
    from bench.soak import stores, traffic
    from bench.soak.followers import Followers
    from bench.soak.verdict import Sample
    from bench.writers import Writers

    forgetful = ("--history-retention", plan.retention, "--compaction-interval", plan.interval)
    samples: list[Sample] = []
    with engines.started(engine, folder) as place:
        async with servers.ours(folder, *place.flags, *forgetful) as server:
            names = policies.fill(server.url, traffic.NAMESPACE, plan.objects)
            path = policies.collection(traffic.NAMESPACE)
            with Connection(server.url) as connection:
                newest = policies.version(connection.ask("GET", f"{path}?limit=1"))
            watched = f"{path}?watch=true&resourceVersion={newest}&timeoutSeconds=86400"
            sources = [
                traffic.requests(server.url, share, number)
                for number, share in enumerate(traffic.shares(names, plan.in_flight))
            ]
            with (
                Followers(server.url, watched, count=plan.watchers) as followers,
                Writers(server.url, sources) as writers,
            ):
                begun = time.monotonic()
                for written in range(plan.every, plan.writes + 1, plan.every):
                    writers.write(plan.every, pace=plan.pace)
                    spent = time.monotonic() - begun
                    if spent > seconds:
                        raise RuntimeError(f"only {written:,} writes in {spent:.0f} s")
                    memory, sizes = Memory.of(server.pid), await stores.sizes(place)
                    behind = written - followers.counted()[0]
                    sample = Sample(written, spent, memory.resident, memory.peak, sizes, behind)
                    _tell(sample, first=not samples)
                    samples.append(sample)
                _until_all(followers, plan.writes)
    return samples


def _until_all(followers: "Followers", events: int) -> None:
    deadline = time.monotonic() + CATCH_UP
    while (counted := followers.counted()) != (events, events):
        if counted[1] > events or time.monotonic() > deadline:
            raise RuntimeError(
                f"watchers got {counted[0]:,} to {counted[1]:,} of {events:,} events"
            )
        time.sleep(0.05)


def _tell(sample: "Sample", *, first: bool) -> None:
    if first:
        titles = ("writes", "seconds", "memory MB", "peak MB", *sample.sizes, "behind")
        print("".join(f"{title:>14}" for title in titles))
    numbers = (sample.memory, sample.peak, *sample.sizes.values())
    cells = (f"{sample.writes:,}", f"{sample.seconds:.0f}", *(f"{n:,.1f}" for n in numbers))
    print("".join(f"{cell:>14}" for cell in (*cells, f"{sample.behind:,}")), flush=True)


if __name__ == "__main__":
    main()
