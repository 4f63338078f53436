"""Get one object, list all objects of a namespace, and list them when one of them has changed.

The floor is a bare route that answers with the same bytes.
"""

import contextlib
import itertools
import time
from collections.abc import Callable
from pathlib import Path

from bench import connection, policies, servers
from bench.connection import Connection
from bench.load import Load
from bench.pairs import Outcome, Target, measure
from bench.scale import Scale
from bench.wire import Wire
from bench.writers import Request

NAMESPACE = "stored"
TARGET = Target(0.5)


async def reads(folder: Path, scale: Scale) -> list[Outcome]:
    """Requests per second."""
    async with servers.ours(folder, "--database-url", scale.database_url) as server:
        names = policies.fill(server.url, NAMESPACE, scale.objects)
        listed = policies.collection(NAMESPACE)
        got = f"{listed}/{names[len(names) // 2]}"
        with Connection(server.url) as asking:
            contents = {path: asking.ask("GET", path) for path in (got, listed)}
        async with servers.pages(folder, contents) as bare:
            return [
                _read("get one object", got, contents, bare, server.url, scale),
                _read(f"list {scale.objects:,} objects", listed, contents, bare, server.url, scale),
                _changing(got, listed, bare, server.url, scale),
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
            target=TARGET,
            rounds=scale.rounds,
            ours=rate(url),
            floor=rate(bare),
        )


def _changing(changed: str, listed: str, bare: str, url: str, scale: Scale) -> Outcome:
    """One list after the other, and between any two a PUT, whose own time does not count.

    It has the target of the other lists: what changed is one object, and a list that is made anew
    for it would cost fifty times that.
    """
    name = changed.rpartition("/")[2]
    turns = itertools.count(1)

    def put() -> Request:
        body = policies.policy(name, turn=next(turns))
        return Request(connection.request("PUT", url, changed, body), 200)

    with contextlib.ExitStack() as stack:

        def wire(server: str) -> Wire:
            made = Wire(server)
            stack.callback(made.close)
            return made

        writer, ours, floor = wire(url), wire(url), wire(bare)
        asking = {
            wire: connection.request("GET", to, listed) for wire, to in ((ours, url), (floor, bare))
        }

        def rate(wire: Wire) -> float:
            lists, spent = 0, 0.0
            while spent < scale.seconds:
                writer.ask(*put())
                begun = time.monotonic()
                wire.ask(asking[wire], 200)
                spent += time.monotonic() - begun
                lists += 1
            return lists / spent

        return measure(
            f"list {scale.objects:,} objects after a change",
            "requests/s",
            target=TARGET,
            rounds=scale.rounds,
            ours=lambda: rate(ours),
            floor=lambda: rate(floor),
        )
