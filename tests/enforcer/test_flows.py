"""Lines about flows, and the list: what they say, that it is true, and that they stay few."""

import json
import random
import tracemalloc
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enforcer.flows import listing as flow_list
from enforcer.flows import reason as flow_reason
from enforcer.flows.listing import Element
from enforcer.flows.reason import ALLOWED_BY_NOW, CHANGED
from enforcer.flows.recorder import LINES, RECORDS, REPEAT, TIMEOUT
from enforcer.flows.report import Report
from enforcer.nft.nflog import Seen
from policy import Cluster, Miss, Policy, Reason, Rule, verdict
from tests.enforcer.flow_world import BACK, POL1, START, Story, World, seen
from tests.policy import strategies


def element(
    client: str = "10.66.0.11",
    pod: str = "10.66.0.12",
    port: int = 81,
    *,
    kind: str = "denied",
    packets: int = 3,
    expires: float = TIMEOUT,
) -> Element:
    return Element(kind, client, pod, "tcp", port, packets, packets * 60, expires)


def test_the_first_packet_of_a_flow_is_a_line_with_the_reason() -> None:
    story = Story()
    story.flows().see(seen(time=START - 1.5))
    assert story.said() == [
        {
            "time": "2027-01-15T08:00:00.000Z",
            "verdict": "denied",
            "source": "shop/front",
            "sourceAddress": "10.66.0.11",
            "destination": "shop/back",
            "destinationAddress": "10.66.0.12",
            "protocol": "TCP",
            "port": 81,
            "count": 1,
            "since": "2027-01-15T07:59:58.500Z",
            "last": "2027-01-15T07:59:58.500Z",
            "reason": "no rule of the policies that select the pod allows it",
            "nearestMiss": {
                "policy": "shop/pol1",
                "rule": 0,
                "miss": "allows the source, but not the port",
            },
        }
    ]


def test_a_flow_that_goes_on_is_a_line_a_minute_with_its_count() -> None:
    story = Story()
    flows = story.flows()
    for second in range(int(REPEAT * 2) + 1):
        story.clock.passed = second
        flows.see(seen())
    counts = [line["count"] for line in story.said()]
    assert counts == [1, REPEAT + 1, 2 * REPEAT + 1]


def test_the_would_be_denied_are_told_apart() -> None:
    story = Story()
    story.flows().see(seen("192.0.2.1", "fd66::13", audit=True))
    (line,) = story.said()
    assert line["verdict"] == "audited"
    assert (line["source"], line["destination"]) == ("192.0.2.1", "lab/tool")
    assert line["reason"] == Reason.NOT_SELECTED
    assert line["nearestMiss"] is None


def test_what_other_rules_log_into_the_group_is_ignored() -> None:
    story = Story()
    flows = story.flows()
    flows.see(Seen("somebody else", "192.0.2.1", "10.66.0.12", "TCP", 1))
    assert not story.said()
    assert flows.ignored == 1


def test_a_pod_that_is_not_known_is_said_as_its_address() -> None:
    story = Story()
    story.world.without("back")
    story.flows().see(seen())
    (line,) = story.said()
    assert line["destination"] == line["destinationAddress"] == "10.66.0.12"
    assert line["reason"] == Reason.NO_POD


def test_what_policies_allow_meanwhile_is_said_so() -> None:
    story = Story()
    story.world.allow(Policy("shop", "all", BACK, (Rule(),)))
    story.flows().see(seen())
    (line,) = story.said()
    assert line["reason"] == f"{ALLOWED_BY_NOW}: {Reason.ALLOWED}"
    assert line["nearestMiss"] is None


def test_an_address_that_another_pod_has_by_now_is_another_flow() -> None:
    story = Story()
    flows = story.flows()
    flows.see(seen())
    story.world.without("front")
    flows.see(seen())
    assert [(line["source"], line["count"]) for line in story.said()] == [
        ("shop/front", 1),
        ("10.66.0.11", 1),
    ]


def test_a_flood_of_ports_is_a_few_lines_and_a_true_number() -> None:
    story = Story()
    flows = story.flows()
    for port in range(1000):
        flows.see(seen(port=port))
        story.clock.passed += 0.002
    story.clock.passed += 1
    flows.tick()
    said = story.said()
    told = [line for line in said if "leftOut" not in line]
    left = [line["leftOut"] for line in said if "leftOut" in line]
    assert len(told) == 2 * LINES
    assert len(left) <= 3
    assert len(told) + sum(left) == 1000
    assert (flows.written, flows.left_out) == (len(told), sum(left))


def test_a_flow_that_was_left_out_is_told_when_there_is_room() -> None:
    story = Story()
    flows = story.flows(lines=1)
    flows.see(seen(port=1))
    for _ in range(3):
        flows.see(seen(port=2))
    story.clock.passed = 1
    flows.see(seen(port=2))
    assert [
        (line.get("port"), line.get("leftOut"), line.get("count")) for line in story.said()
    ] == [
        (1, None, 1),
        (None, 1, None),
        (2, None, 4),
    ]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from((0.0, 0.1, 0.4, 1.5, 70.0)))),
    st.integers(1, 3),
)
def test_the_lines_are_true_and_few(packets: list[tuple[int, float]], lines: int) -> None:
    """In each period, flows that were due are either told or counted; counts are those seen."""
    story = Story()
    flows = story.flows(lines=lines)
    counts: dict[int, int] = defaultdict(int)
    told: dict[int, float] = {}
    due: set[int] = set()
    stamps = []

    def hear() -> None:
        for line in story.said():
            if "leftOut" in line:
                assert line["leftOut"] == len(due)
                due.clear()
                continue
            port = line["port"]
            assert line["count"] == counts[port]
            told[port] = story.clock.passed
            stamps.append(story.clock.passed)
            due.remove(port)

    for port, pause in packets:
        story.clock.passed += pause
        flows.tick()
        hear()
        counts[port] += 1
        if port not in told or story.clock.passed - told[port] >= REPEAT:
            due.add(port)
        flows.see(seen(port=port))
        hear()
    story.clock.passed += 1
    flows.tick()
    hear()
    assert not due
    for index, stamp in enumerate(stamps):
        assert len([other for other in stamps[index:] if other < stamp + 1]) <= 2 * lines


def test_records_are_bounded_and_the_oldest_go_first() -> None:
    story = Story()
    flows = story.flows(records=10)
    for port in range(1, 31):
        flows.see(seen(port=port))
        flows.see(seen(port=0))
    assert len(flows) == 10
    found = {(report["port"], report["count"]) for report in flows.merge([])}
    assert found == {(0, 30), *((port, 1) for port in range(22, 31))}


def test_a_flood_of_sources_and_ports_takes_a_few_megabytes() -> None:
    story = Story()
    flows = story.flows()
    tracemalloc.start()
    try:
        for number in range(3 * RECORDS):
            flows.see(seen(f"192.0.{number >> 8}.{number & 255}", port=number))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(flows) == RECORDS
    assert held < 4 << 20


def test_a_packet_asks_the_same_of_a_cluster_of_any_size() -> None:
    story = Story()
    flows = story.flows()
    flows.see(seen())
    assert story.world.asked <= 8
    story.world.asked = 0
    flows.see(seen())
    assert story.world.asked == 2


@settings(max_examples=60, deadline=None)
@given(strategies.clusters(), st.randoms(use_true_random=False))
def test_the_reason_is_that_of_the_whole_cluster(cluster: Cluster, rand: random.Random) -> None:
    view = World(cluster)
    for flow in rand.sample(strategies.flows(cluster), 30):
        want = verdict(cluster, flow)
        if want.reason is Reason.NODE:  # such packets pass no rule
            continue
        found = flow_reason.why(view, flow, lambda pod: flow_reason.applicable(view, pod))
        if want.reason is Reason.NO_POD:
            assert found == flow_reason.Why(Reason.NO_POD)
        elif not want.denied:
            assert found == flow_reason.Why(f"{ALLOWED_BY_NOW}: {want.reason}")
        else:
            misses = [missed for missed in want.misses if missed.miss is not Miss.NOT_SELECTED]
            assert found.reason == want.reason
            assert (found.nearest is None) == (not misses)
            if found.nearest is not None:
                order = [str(miss) for miss in Miss]
                nearest = max(order.index(missed.miss) for missed in misses)
                assert order.index(found.nearest["miss"]) == nearest
                assert (found.nearest["policy"], found.nearest["rule"]) in {
                    (missed.policy, missed.rule) for missed in misses
                }


def test_the_list_has_the_counts_of_the_kernel_and_the_beginnings_of_the_records() -> None:
    story = Story()
    flows = story.flows()
    flows.see(seen())
    story.clock.passed = 30
    (found,) = flows.merge([element(packets=7, expires=TIMEOUT - 4)])
    assert (found["count"], found["since"], found["last"]) == (
        7,
        "2027-01-15T08:00:00.000Z",
        "2027-01-15T08:00:26.000Z",
    )
    assert (found["source"], found["destination"], found["protocol"], found["port"]) == (
        "shop/front",
        "shop/back",
        "TCP",
        81,
    )


def test_a_flow_that_was_never_logged_is_known_since_it_was_last_seen() -> None:
    (found,) = Story().flows().merge([element(expires=TIMEOUT - 4)])
    assert found["since"] == found["last"] == "2027-01-15T07:59:56.000Z"
    assert found["nearestMiss"] is not None


def test_the_list_holds_what_the_sets_cannot() -> None:
    story = Story()
    flows = story.flows()
    flows.see(seen(protocol="ICMP", port=None))
    (found,) = flows.merge([])
    assert (found["protocol"], found["port"], found["count"]) == ("ICMP", None, 1)


def test_the_last_seen_come_first_and_the_limit_keeps_them() -> None:
    flows = Story().flows()
    some = [
        element(port=port, expires=port / 10) for port in random.Random(1).sample(range(900), 900)
    ]
    assert [found["port"] for found in flows.merge(some, limit=5)] == [899, 898, 897, 896, 895]
    assert len(flows.merge(some)) == flow_list.LIMIT
    assert flows.merge(some, limit=0) == []
    assert flows.merge(some, limit=-1) == []


@pytest.mark.parametrize(
    ("pick", "ports"),
    [
        ({}, [4, 3, 2, 1]),
        ({"namespace": "shop"}, [3, 2, 1]),
        ({"namespace": "lab"}, [4, 3]),
        ({"pod": "front"}, [2]),
        ({"pod": "192.0.2.1"}, [4, 1]),
        ({"pod": "back", "namespace": "shop"}, [3, 2, 1]),
        ({"pod": "back", "namespace": "lab"}, []),
        ({"verdict": "audited"}, [4]),
        ({"verdict": "denied", "pod": "tool"}, [3]),
    ],
)
@pytest.mark.parametrize("logged", [False, True])
def test_the_list_can_be_narrowed(pick: dict[str, str], ports: list[int], logged: bool) -> None:
    flows = Story().flows()
    ends = [
        ("192.0.2.1", "10.66.0.12"),
        ("10.66.0.11", "10.66.0.12"),
        ("10.66.0.13", "10.66.0.12"),
        ("192.0.2.1", "10.66.0.13"),
    ]
    elements = []
    for port, (client, pod) in enumerate(ends, 1):
        kind = "wouldbe" if port == 4 else "denied"
        if logged:
            flows.see(seen(client, pod, port, audit=port == 4, time=START + port))
        else:
            elements.append(element(client, pod, port, kind=kind, expires=port))
    assert [found["port"] for found in flows.merge(elements, **pick)] == ports  # type: ignore[arg-type]


def test_a_pod_that_is_gone_keeps_its_name_but_gets_no_reason_of_its_successor() -> None:
    story = Story()
    flows = story.flows()
    flows.see(seen())
    story.world.without("back")
    (found,) = flows.merge([element()])
    assert (found["destination"], found["reason"], found["nearestMiss"]) == (
        "shop/back",
        CHANGED,
        None,
    )


def test_full_sets_are_listed_by_looking_up_only_what_is_shown() -> None:
    story = Story()
    flows = story.flows()
    some = [
        element(f"192.0.{n >> 8 & 255}.{n & 255}", port=n & 0xFFFF, expires=n / 1000)
        for n in range(131_072)
    ]
    assert len(flows.merge(some, limit=10)) == 10
    assert story.world.asked < 100


def test_the_reason_names_the_rule_that_came_nearest() -> None:
    story = Story()
    story.world.allow(Policy("shop", "none", BACK), POL1)
    story.flows().see(seen("192.0.2.1", port=80))
    assert story.said()[0]["reason"].startswith(ALLOWED_BY_NOW)
    story.world.allow(Policy("shop", "none", BACK))
    story.flows().see(seen("192.0.2.1", port=80))
    assert story.said()[0]["nearestMiss"] == {
        "policy": "shop/none",
        "rule": None,
        "miss": "allows nothing by itself",
    }


def test_the_guide_explains_every_field_and_shows_real_lines() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "flows.md").read_text()
    fields = {"time", "leftOut", *Report.__annotations__}
    rows = [line for line in guide.splitlines() if line.startswith("| `")]
    explained = {name for row in rows for name in row.split("|")[1].replace("`", "").split(", ")}
    assert fields <= {name.strip() for name in explained}
    shown = [json.loads(line) for line in guide.splitlines() if line.lstrip().startswith("{")]
    assert [set(line) for line in shown] == [
        {"time", *Report.__annotations__},
        {"time", "leftOut", "since"},
    ]
    for sentence in (*Miss, Reason.NOT_SELECTED, Reason.NO_POD, CHANGED, ALLOWED_BY_NOW):
        assert sentence == Miss.NOT_SELECTED or sentence in guide
