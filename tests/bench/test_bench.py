"""The benchmarks still run; what they measure is judged by `make bench`, never by a test."""

import asyncio
import json
import sys
from typing import Any

import pytest

from bench import cases, report
from bench.pairs import Of, Outcome, Target

# What runs at the same time: nothing of it is measured here.
SHARES = ("create", "read,watch", "large", "enforcer")
SECONDS = 120
NAMES = [
    "create on sqlite, 4 in flight",
    "create on sqlite, 4 in flight, batched floor",
    "create on postgresql, 4 in flight",
    "create on postgresql, 4 in flight, batched floor",
    "create on etcd, 4 in flight",
    "get one object",
    "list 200 objects",
    "list 200 objects after a change",
    "watch, 20 watchers",
    "watch, 20 watchers, 40 writes/s, p50",
    "watch, 20 watchers, 40 writes/s, p99",
    "start with 600 objects",
    "memory with 600 objects",
    "memory with 600 objects, all listed once",
    "list 10 of 600 objects by label",
    "packet, 1 peer, 10 local pods",
    "packet, 1,000 peers, 10 local pods",
    "packet, 10 peers, 4 local pods",
    "packet, 10 peers, 100 local pods",
    "packet, 1,000 peers by 1",
    "packet, 100 local pods by 4",
    "packet, linear rules, 4 local pods",
    "packet, linear rules, 10 local pods",
    "packet, linear rules, 100 local pods",
    "connect, 1,000 peers, 10 local pods",
    "connect, 10 peers, 100 local pods",
    "connect, linear rules, 100 local pods",
    "a pod joins or leaves 10 peer sets",
    "a pod joins or leaves 10 peer sets, p99",
    "1,500 elements from nothing",
    "start, 500 pods, from synced to committed",
    "start, 500 pods, from the process on",
    "start, 500 pods, slowest answer to a probe",
    "processor time at rest",
    "answer to commit, 20 changes/s, p50",
    "answer to commit, 20 changes/s, p99",
    "memory at rest",
    "memory after changes",
]
# The enforcer's cases, packets apart, and what memory there is.
WITHOUT_FLOOR = ("memory", "a pod", "1,500", "start, 500", "processor", "answer")
# In a quick run it may be less than the kernel counts, or over before anybody asks.
MAYBE_NOTHING = ("processor time at rest", "start, 500 pods, slowest answer to a probe")
CREATE, READ, WATCH = ({"of": "ratio", "at least": bound} for bound in (0.35, 0.5, 0.6))
TARGETS = [
    *(CREATE, None) * 2,
    CREATE,
    *(READ,) * 3,
    WATCH,
    None,
    {"of": "ours", "at most": 50.0},
    {"of": "ours", "at most": 10.0},
    {"of": "ours", "at most": 400.0},
    None,
    {"of": "ratio", "at most": 3.0},
    *({"of": "ratio", "at most": 1.35},) * 4,
    *({"of": "ratio", "at most": 1.05},) * 2,
    *(None,) * 6,
    *({"of": "ours", "at most": 5.0},) * 2,
    None,
    {"of": "ours", "at most": 3.0},
    None,
    *({"of": "ours", "at most": bound} for bound in (250.0, 1.0, 15.0, 50.0)),
    *({"of": "ours", "at most": 300.0},) * 2,
]


async def _run(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        process.terminate()  # it ends what it has started
        await process.wait()
        raise
    assert process.returncode == 0
    return output.decode()


async def test_every_case_and_a_soak_run() -> None:
    *told, soak = await asyncio.gather(
        *(_run("bench", "--quick", "--json", "--only", share) for share in SHARES),
        _run("bench.soak", "--quick"),
    )
    found: list[dict[str, Any]] = [case for text in told for case in json.loads(text)["cases"]]
    assert [case["name"] for case in found] == NAMES
    assert [case["target"] for case in found] == TARGETS
    assert all(case["ours"] > 0 for case in found if case["name"] not in MAYBE_NOTHING)
    assert [case["name"] for case in found if not case["floor"]] == [
        name for name in NAMES if name.startswith(WITHOUT_FLOOR)
    ]
    assert all(case["ratio"]["median"] > 0 for case in found if case["floor"])
    head, *samples, last = soak.splitlines()
    assert head.split()[0] == "writes"
    assert [line.split()[0] for line in samples] == [f"{n:,}" for n in range(200, 1_601, 200)]
    assert last == "each of 5 watchers got all 1,600 events in order"


def test_a_target_bounds_the_median() -> None:
    outcome = Outcome("list", "ms", ours=(1.0, 9.0, 3.0), floor=(1.0, 3.0, 2.0))

    def met(target: Target | None) -> bool:
        return Outcome("list", "ms", outcome.ours, outcome.floor, target).met

    assert met(None)
    assert met(Target(1.5))
    assert not met(Target(1.6))
    assert met(Target(1.5, most=True))
    assert not met(Target(1.4, most=True))
    assert met(Target(3.0, most=True, of=Of.OURS))
    assert not met(Target(2.9, most=True, of=Of.OURS))


def test_a_row_says_whether_the_target_is_met() -> None:
    missed = Outcome("a start", "s", (12.0,), (0.5,), Target(10.0, most=True, of=Of.OURS), "cold")
    shown = " ".join(report.row(missed).split())
    assert shown == "a start s 0.50 12.0 24.00 24.00 24.00 <= 10 s MISSED; cold"
    told = Outcome("memory", "MB", (1234.0,))
    assert report.row(told).split() == ["memory", "MB", "1,234"]


def test_topics_are_chosen_by_name_or_by_the_first_part_of_it() -> None:
    assert cases.chosen("") == list(cases.TOPICS)
    assert cases.chosen("watch,create") == [
        "watch",
        "create-sqlite",
        "create-postgresql",
        "create-etcd",
    ]
    assert cases.chosen("create-etcd") == ["create-etcd"]
    with pytest.raises(ValueError, match="nothing"):
        cases.chosen("nothing")
