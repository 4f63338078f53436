"""What a run is like: the one that is judged, and the one that only shows that all of it runs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """`seconds` is the length of a round of requests; `connections` is for reads.

    `events` is what a round sends to `watchers`, as fast as can be; `paced` what it sends in all at
    a steady pace. `many` and `few` objects are listed by a label that `picked` of them have, after
    `starts` starts.

    For the enforcer: packets meet rulesets of so many `peers` and `local` pods, few, some and many
    of them, for a number of `slices` of time; a cluster has so many `pods` and `policies`, a pod
    joins it so many times, so many `changes` of it are enforced, and for `idle` seconds none.

    `database_url` is what reads and watches store in: the engine that forgets, so
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
    peers: tuple[int, int, int]
    local: tuple[int, int, int]
    slices: int
    pods: int
    policies: int
    joins: int
    changes: int
    idle: float
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
    peers=(1, 1_000, 100_000),
    local=(10, 100, 1_000),
    slices=41,
    pods=10_000,
    policies=1_000,
    joins=200,
    changes=700,
    idle=20.0,
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
    peers=(1, 10, 1_000),
    local=(4, 10, 100),
    slices=2,
    pods=500,
    policies=100,
    joins=5,
    changes=20,
    idle=0.5,
)
