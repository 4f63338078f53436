"""The cases: get, list and watch, each against the floor that moves the same bytes.

In the watch case the time runs from the first write to the last event of the last watcher. The
floor sends in a loop and takes no writes; ours takes a PUT over HTTP for every event, one after
another. They are not subtracted: a write costs the server some 0.4 ms, which is up to a tenth of
the fan-out to 500 watchers, and the ratio is that much lower than that of the fan-out alone.
"""

import contextlib
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import floor, policies, servers
from bench.connection import Connection
from bench.load import Load
from bench.pairs import Outcome, measure
from bench.watchers import Watchers

STORED = "stored"  # the namespace of the objects that are read
WATCHED = "watched"  # the namespace of the object whose changes are watched


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a run is; `seconds` is the length of a round of requests."""

    rounds: int
    seconds: float
    connections: int
    objects: int
    watchers: int
    events: int


FULL = Scale(rounds=9, seconds=0.7, connections=4, objects=10_000, watchers=500, events=100)
QUICK = Scale(rounds=2, seconds=0.1, connections=2, objects=200, watchers=20, events=10)


async def reads(url: str, folder: Path, scale: Scale) -> list[Outcome]:
    """Get one object, and list all objects of its namespace."""
    with Connection(url) as server:
        names = policies.fill(server, STORED, scale.objects)
        listed = policies.collection(STORED)
        got = f"{listed}/{names[len(names) // 2]}"
        contents = {path: server.ask("GET", path) for path in (got, listed)}
    async with servers.pages(folder, contents) as bare:
        return [
            _read("get one object", got, contents, bare, url, scale),
            _read(f"list {scale.objects:,} objects", listed, contents, bare, url, scale),
        ]


def _read(
    name: str, path: str, contents: dict[str, bytes], bare: str, url: str, scale: Scale
) -> Outcome:
    with contextlib.ExitStack() as stack:

        def rate(server: str) -> Callable[[], float]:
            load = Load(server, path, connections=scale.connections, expected=contents[path])
            stack.callback(load.close)
            return lambda: load.rate(scale.seconds)

        return measure(
            name,
            "requests/s",
            target=0.5,
            rounds=scale.rounds,
            floor=rate(bare),
            ours=rate(url),
        )


async def watch(url: str, folder: Path, scale: Scale) -> Outcome:
    """Events per second delivered to all watchers together."""
    with Connection(url) as server:
        (name,) = policies.fill(server, WATCHED, 1)
        path = policies.collection(WATCHED)
        turns = itertools.count(1)

        def put(events: int) -> None:
            for turn in itertools.islice(turns, events):
                server.ask("PUT", f"{path}/{name}", policies.policy(name, turn=turn))

        def watch_for(seconds: int) -> str:
            revision = json.loads(server.ask("GET", path))["metadata"]["resourceVersion"]
            return f"{path}?watch=true&resourceVersion={revision}&timeoutSeconds={seconds}"

        sample = watch_for(1)
        put(1)
        line = server.ask("GET", sample)
        async with servers.fanout(folder, line) as bare:
            with (
                Connection(bare) as trigger,
                Watchers(bare, floor.WATCH, count=scale.watchers) as theirs,
                Watchers(url, watch_for(3600), count=scale.watchers) as our_own,
            ):

                def send(events: int) -> None:
                    trigger.ask("POST", f"{floor.BURST}{events}")

                return measure(
                    f"watch, {scale.watchers} watchers",
                    "events/s",
                    target=0.6,
                    rounds=scale.rounds,
                    floor=lambda: _burst(theirs, send, scale),
                    ours=lambda: _burst(our_own, put, scale),
                )


def _burst(watchers: Watchers, cause: Callable[[int], None], scale: Scale) -> float:
    watchers.expect(scale.events)
    begun = time.monotonic()
    cause(scale.events)
    return scale.events * scale.watchers / (watchers.done() - begun)
