"""A thousand watchers of one namespace: how much they can be sent, and how soon they have it.

In the first case the time runs from the first write to the last event of the last watcher. The
floor sends in a loop and takes no writes; ours takes a PUT over HTTP for every event, one after
another. They are not subtracted: a write costs the server some 0.4 ms, which is up to a twentieth
of the fan-out to 1,000 watchers, and the ratio is that much lower than that of the fan-out alone.

In the second case the writes come at a steady pace, and the time of an event runs from the moment
at which its write was due: a server that keeps the writer waiting does not look the faster for it.
"""

import itertools
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles

from bench import floor, policies, servers
from bench.connection import Connection
from bench.pairs import Of, Outcome, Target, measure
from bench.scale import Scale
from bench.watchers import Watchers

NAMESPACE = "watched"
SATURATED = Target(0.6)
PROMPT = Target(50.0, most=True, of=Of.OURS)  # ms
PACE = 40  # writes a second: 40,000 events a second for 1,000 watchers
HOUR = 3_600


async def watches(folder: Path, scale: Scale) -> list[Outcome]:
    """Events per second, delivered to all watchers together; then milliseconds to each."""
    async with servers.ours(folder, "--database-url", scale.database_url) as server:
        (name,) = policies.fill(server.url, NAMESPACE, 1)
        path = policies.collection(NAMESPACE)
        turns = itertools.count(1)
        with Connection(server.url) as writer:

            def put() -> None:
                writer.ask("PUT", f"{path}/{name}", policies.policy(name, turn=next(turns)))

            def watch_for(seconds: int) -> str:
                revision = policies.version(writer.ask("GET", path))
                return f"{path}?watch=true&resourceVersion={revision}&timeoutSeconds={seconds}"

            sample = watch_for(1)
            put()
            line = writer.ask("GET", sample)
            async with servers.fanout(folder, line) as bare:
                with (
                    Connection(bare) as trigger,
                    Watchers(bare, floor.WATCH, count=scale.watchers) as theirs,
                    Watchers(server.url, watch_for(HOUR), count=scale.watchers) as our_own,
                ):

                    def send(events: int) -> None:
                        trigger.ask("POST", f"{floor.BURST}{events}")

                    return [
                        measure(
                            f"watch, {scale.watchers:,} watchers",
                            "events/s",
                            target=SATURATED,
                            rounds=scale.rounds,
                            ours=lambda: _burst(our_own, lambda: _repeat(put, scale.events), scale),
                            floor=lambda: _burst(theirs, lambda: send(scale.events), scale),
                        ),
                        *_delays(
                            scale,
                            ours=_paced(our_own, put, scale.paced),
                            floor=_paced(theirs, lambda: send(1), scale.paced),
                        ),
                    ]


def _repeat(call: Callable[[], None], times: int) -> None:
    for _ in range(times):
        call()


def _burst(watchers: Watchers, cause: Callable[[], None], scale: Scale) -> float:
    watchers.expect(scale.events)
    begun = time.monotonic()
    cause()
    return scale.events * scale.watchers / (watchers.arrivals()[-1][-1] - begun)


def _paced(watchers: Watchers, cause: Callable[[], None], events: int) -> "array[float]":
    """The milliseconds from the moment that a write was due to each of its arrivals."""
    watchers.expect(events)
    begun = time.monotonic()
    due = [begun + number / PACE for number in range(events)]
    for moment in due:
        time.sleep(max(0.0, moment - time.monotonic()))
        cause()
    return array(
        "d",
        (
            (arrived - moment) * 1_000
            for moment, arrivals in zip(due, watchers.arrivals(), strict=True)
            for arrived in arrivals
        ),
    )


def _delays(scale: Scale, *, ours: "array[float]", floor: "array[float]") -> list[Outcome]:
    """Half, and 99 of 100 of all events to all watchers, came sooner than that."""
    mine, theirs = (quantiles(delays, n=100) for delays in (ours, floor))
    name = f"watch, {scale.watchers:,} watchers, {PACE} writes/s"
    worst = f"greatest {max(ours):.0f} ms, the floor's {max(floor):.0f} ms"
    return [
        Outcome(f"{name}, p50", "ms", (mine[49],), (theirs[49],)),
        Outcome(f"{name}, p99", "ms", (mine[98],), (theirs[98],), PROMPT, worst),
    ]
