"""What a run is like: the one that is judged, and the one that only shows that all of it runs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """`seconds` is the length of a round of requests; `connections` is for reads.

    `events` is what a round sends to `watchers`, as fast as can be; `paced` what it sends in all at
    a steady pace. `many` and `few` objects are listed by a label that `picked` of them have, after
    `starts` starts. `database_url` is what reads and watches store in: the engine that forgets, so
    that nothing is measured there but the server.
    """

    rounds: int
    seconds: float
    connections: int
    in_flight: int
    objects: int
    watchers: int
    events: int
    paced: int
    many: int
    few: int
    picked: int
    starts: int
    database_url: str = "memory:"


FULL = Scale(
    rounds=9,
    seconds=0.7,
    connections=4,
    in_flight=32,
    objects=10_000,
    watchers=1_000,
    events=60,
    paced=400,
    many=100_000,
    few=1_000,
    picked=100,
    starts=3,
)
QUICK = Scale(
    rounds=2,
    seconds=0.1,
    connections=2,
    in_flight=4,
    objects=200,
    watchers=20,
    events=10,
    paced=20,
    many=600,
    few=300,
    picked=10,
    starts=1,
)
