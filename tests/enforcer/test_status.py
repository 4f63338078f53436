"""What an enforcer says of itself: status, verdicts, document, metrics, and the text for people."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as families

from enforcer.telemetry import checks, show
from enforcer.telemetry.backlog import MARKS, Backlog
from enforcer.telemetry.document import MOST, document
from enforcer.telemetry.endpoint import Endpoint, same_host
from enforcer.telemetry.metrics import Metrics
from enforcer.telemetry.status import Status
from enforcer.telemetry.tally import SECONDS, Tally
from enforcer.telemetry.times import rfc3339, span
from tests.enforcer.reporting import (
    BRIDGE,
    START,
    WARNING,
    Clock,
    Probed,
    commit,
    enforcing,
    listed,
    started,
)

PODS = "/api/v1/pods"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def failing(status: Status) -> dict[str, str]:
    """The checks of readiness that fail, with their reasons."""
    return {check.name: check.reason for check in checks.ready(status) if not check.ok}


# What is not enforced yet.


def test_a_change_waits_from_its_arrival_until_a_commit_covers_it(clock: Clock) -> None:
    status = enforcing(clock)
    assert status.pending_seconds() is None
    clock.now = 1
    status.heard(PODS, "11")
    clock.now = 3
    status.heard(PODS, "12")
    assert status.pending_seconds() == 2
    covered = dict(status.revisions)
    clock.now = 4
    status.heard(PODS, "13")
    status.unchanged({**covered, "pods": "11"})
    clock.now = 5
    assert status.pending_seconds() == 2
    status.unchanged(covered)
    assert status.pending_seconds() == 1
    commit(status)
    assert status.pending_seconds() is None


def test_a_bookmark_of_what_is_known_is_no_change(clock: Clock) -> None:
    status = enforcing(clock)
    status.heard(PODS, "10")
    assert status.pending_seconds() is None


def test_a_server_that_counts_from_an_earlier_number_is_believed() -> None:
    backlog = Backlog()
    backlog.heard("pods", "900", 1)
    backlog.heard("pods", "5", 2)
    backlog.done("pods", "900")
    assert backlog.oldest() == 2
    backlog.done("pods", "5")
    assert backlog.oldest() is None


def test_a_backlog_is_bounded_and_never_makes_a_change_younger() -> None:
    backlog = Backlog()
    for number in range(3 * MARKS):
        backlog.heard("pods", str(number), number)
    assert backlog.oldest() == 0
    backlog.done("pods", str(2 * MARKS))
    assert backlog.oldest() == MARKS - 1
    backlog.done("pods", str(3 * MARKS))
    assert backlog.oldest() is None


def test_a_revision_that_is_no_number_and_not_known_is_done_with_nothing() -> None:
    backlog = Backlog()
    backlog.heard("pods", "a", 1)
    backlog.done("pods", "b")
    assert backlog.oldest() == 1
    backlog.done("pods", "a")
    assert backlog.oldest() is None


# Readiness and liveness.


def test_it_is_ready_when_all_is_listed_and_committed(clock: Clock) -> None:
    status = started(clock)
    assert failing(status) == {"synced": "not listed yet: namespaces, pods, networkpolicys"}
    status.synced(PODS)
    assert failing(status) == {"synced": "not listed yet: namespaces, networkpolicys"}
    listed(status)
    assert failing(status) == {"synced": "nothing has been committed yet"}
    commit(status)
    assert failing(status) == {}


def test_a_restored_state_is_enforced_and_not_ready(clock: Clock) -> None:
    status = started(clock)
    status.restored(START - 60)
    commit(status)
    assert failing(status) == {
        "synced": "not listed yet: namespaces, pods, networkpolicys;"
        " meanwhile the state of 2016-04-07T03:32:20.000Z is enforced"
    }
    assert document(status)["enforced"]["restoredFrom"] == "2016-04-07T03:32:20.000Z"
    listed(status)
    commit(status)
    assert failing(status) == {}
    assert document(status)["enforced"]["restoredFrom"] is None


def test_a_ruleset_that_the_kernel_held_already_is_a_commit(clock: Clock) -> None:
    status = started(clock)
    listed(status)
    status.committed(
        status.revisions,
        digest="d",
        pods=1,
        policies=1,
        elements=1,
        compute_seconds=0.1,
        commit_seconds=None,
        oldest_event_seconds=None,
    )
    assert failing(status) == {}
    assert status.counts.commits == {"success": 0, "unchanged": 1, "error": 0}
    assert document(status)["lastCommit"] is None


def test_a_commit_that_fails_makes_it_unready_until_one_succeeds(clock: Clock) -> None:
    status = enforcing(clock)
    clock.now = 5
    status.heard(PODS, "11")
    for _ in range(2):
        status.committing()
        status.commit_failed("No space left on device")
    assert failing(status) == {"commit": "attempt 2 failed: No space left on device"}
    # The old state stays, and the change is still waited for.
    assert document(status)["enforced"]["revisions"]["pods"] == "10"
    assert document(status)["pending"]["changes"] is True
    commit(status)
    assert failing(status) == {}
    error = document(status)["lastError"]
    assert (error["attempts"], error["over"]) == (2, True)
    status.commit_failed("again")
    assert document(status)["lastError"]["attempts"] == 1


def test_only_a_finding_by_which_packets_pass_makes_it_unready(clock: Clock) -> None:
    status = enforcing(clock)
    status.bypass([WARNING])
    assert failing(status) == {}
    status.bypass([WARNING, BRIDGE])
    assert failing(status) == {"bypass": "cni0: frames between its ports pass unjudged"}
    status.bypass([])
    assert failing(status) == {}


def test_a_canary_counts_where_there_is_one(clock: Clock) -> None:
    status = enforcing(clock)
    status.canary(None, "it needs CAP_SYS_ADMIN")
    assert failing(status) == {}
    assert document(status)["canary"]["state"] == "off"
    status.canary(Probed(False, "denied traffic passes: IPv4"))
    assert failing(status) == {"canary": "denied traffic passes: IPv4"}
    status.canary(Probed(True, "allowed traffic passes, denied traffic does not"))
    assert failing(status) == {}


def test_a_table_that_differs_makes_it_unready_until_it_is_put_right(clock: Clock) -> None:
    status = enforcing(clock)
    different = {"table": "it is not as it should be, differences: 2, first: -x"}
    status.verified(False, ["-x", "+y"])
    assert failing(status) == different
    commit(status)  # the next change does not put it right
    assert failing(status) == different
    status.repaired(4711, "firewalld", "chain deny")
    assert failing(status) == {}
    status.verified(False)
    assert "table" in failing(status)
    status.verified(True)
    assert failing(status) == {}


def test_a_server_that_is_away_is_shown_and_makes_nothing_unready(clock: Clock) -> None:
    status = enforcing(clock)
    clock.now = 7
    status.following(PODS, False, "ConnectError: refused")
    clock.now = 9
    status.following(PODS, False, "ConnectTimeout")
    assert failing(status) == {}
    (pods,) = (s for s in document(status)["sources"] if s["resource"] == "pods")
    assert pods == {
        "resource": "pods",
        "server": "https://10.0.0.1:6443",
        "state": "away",
        "error": "ConnectTimeout",
        "since": "2016-04-07T03:33:27.000Z",
    }
    status.following(PODS, True, since=START + 8)
    assert status.away() == []
    assert status.sources["pods"].since == START + 8


def test_it_lives_while_a_commit_takes_less_than_a_minute(clock: Clock) -> None:
    status = enforcing(clock)
    status.heard(PODS, "11")
    status.committing()
    clock.now = 60
    assert all(check.ok for check in checks.live(status))
    clock.now = 61
    dead = [check for check in checks.live(status) if not check.ok]
    assert [(check.name, check.reason) for check in dead] == [
        ("commit", "a commit has not ended for 61 s")
    ]
    status.commit_failed("at last")
    assert all(check.ok for check in checks.live(status))


def test_it_does_not_live_if_a_change_waits_and_nothing_is_attempted(clock: Clock) -> None:
    status = enforcing(clock)
    clock.now = 1000  # nothing happened, so there was nothing to attempt
    status.heard(PODS, "11")
    clock.now = 1060
    assert all(check.ok for check in checks.live(status))
    clock.now = 1061
    (dead,) = (check for check in checks.live(status) if not check.ok)
    assert (dead.name, dead.reason) == (
        "loop",
        "a change has waited for 61 s and nothing was attempted",
    )
    status.commit_failed("ENOBUFS")  # an attempt, at least
    assert all(check.ok for check in checks.live(status))


def test_what_cannot_be_listed_is_no_reason_to_start_again(clock: Clock) -> None:
    status = started(clock)
    status.heard(PODS, "1")
    clock.now = 10_000
    assert all(check.ok for check in checks.live(status))


# The document.


def test_the_document_says_what_is_enforced_since_when_and_with_which_digest(clock: Clock) -> None:
    status = enforcing(clock)
    clock.now = 10
    status.heard("/apis/net.alpha.kubernetes.io/v1alpha1/networkpolicys", "20")
    commit(status, digest="d1")
    same = document(status)["enforced"]
    assert same == {
        "revisions": {"namespaces": "10", "pods": "10", "networkpolicys": "20"},
        "since": "2016-04-07T03:33:20.000Z",
        "digest": "d1",
        "pods": 3,
        "classes": 2,
        "elements": 40,
        "restoredFrom": None,
    }
    commit(status, digest="d2")
    assert document(status)["enforced"]["since"] == "2016-04-07T03:33:30.000Z"
    assert document(status)["lastCommit"] == {
        "at": "2016-04-07T03:33:30.000Z",
        "watchSeconds": 0.005,
        "computeSeconds": 0.002,
        "commitSeconds": 0.001,
        "timeToEnforceSeconds": 0.008,
    }


def test_the_document_of_an_enforcer_that_knows_nothing_yet(clock: Clock) -> None:
    empty = document(started(clock))
    assert empty["ready"] is False
    assert {name for name, value in empty.items() if value is None} == {
        "enforced",
        "lastCommit",
        "lastError",
        "lastRepair",
        "lastVerify",
    }


def test_the_document_names_policies_that_could_not_be_enforced(clock: Clock) -> None:
    status = enforcing(clock)
    status.invalid({"b/p": "spec: bad; spec.ingress: worse", "a/q": "no"})
    status.conflicts({"10.1.0.2": ["a/x", "b/y"]})
    told = document(status)
    assert told["policies"] == {
        "enforced": 2,
        "invalidCount": 2,
        "invalid": [
            {"namespace": "a", "name": "q", "errors": ["no"]},
            {"namespace": "b", "name": "p", "errors": ["spec: bad", "spec.ingress: worse"]},
        ],
    }
    assert told["addressConflicts"] == [{"address": "10.1.0.2", "pods": ["a/x", "b/y"]}]
    status.invalid({f"a/p{number}": "no" for number in range(MOST + 7)})
    told = document(status)["policies"]
    assert (told["invalidCount"], len(told["invalid"])) == (MOST + 7, MOST)
    status.invalid({})
    assert document(status)["policies"]["invalid"] == []


def test_the_document_says_who_changed_the_table(clock: Clock) -> None:
    status = enforcing(clock)
    status.repaired(4711, "nft", "set iso4")
    status.verified(False, [str(number) for number in range(30)])
    told = document(status)
    assert told["table"] == {"name": "inet netpol", "flags": ["owner", "persist"]}
    assert told["lastRepair"] == {
        "pid": 4711,
        "program": "nft",
        "what": "set iso4",
        "at": "2016-04-07T03:33:20.000Z",
    }
    assert told["lastVerify"]["differences"] == 30
    assert len(told["lastVerify"]["first"]) == 20


# Metrics.


async def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Each sample by its name, without the prefix, and the values of its labels."""
    content, media = await metrics.exposition()
    assert media == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name.removeprefix("netpol_enforcer_"), *sample.labels.values()): sample.value
        for family in families(content.decode())
        for sample in family.samples
    }


async def test_metrics_tell_of_stages_and_of_the_time_to_enforce(clock: Clock) -> None:
    status = enforcing(clock)
    status.committing()
    status.commit_failed("no")
    told = await samples(Metrics(status))
    for stage in ("watch", "compute", "commit"):
        assert told["stage_duration_seconds_count", stage] == 1
    assert told["stage_duration_seconds_sum", "watch"] == pytest.approx(0.005)
    assert told["time_to_enforce_seconds_bucket", "0.005"] == 0
    assert told["time_to_enforce_seconds_bucket", "0.01"] == 1
    assert told["time_to_enforce_seconds_bucket", "0.0005"] == 0
    assert told["time_to_enforce_seconds_bucket", "10.0"] == 1
    assert told["commits_total", "success"] == told["commits_total", "error"] == 1
    assert told["elements_changed_total",] == 5
    assert told["last_commit_timestamp_seconds",] == START
    assert told["process_cpu_seconds_total",] > 0


async def test_metrics_tell_of_the_ruleset_and_of_its_health(clock: Clock) -> None:
    status = enforcing(clock)
    status.invalid({"a/p": "no"})
    status.conflicts({"10.1.0.2": ["a/x", "b/y"]})
    status.bypass([BRIDGE, BRIDGE, WARNING])
    status.canary(Probed(False, "denied traffic passes: IPv4"))
    status.repaired(1, "nft", "x")
    status.verified(True)
    status.following(PODS, False, "gone")
    status.heard(PODS, "not-a-number")
    clock.now = 4
    metrics = Metrics(status)
    told = await samples(metrics)
    for name, value in {
        ("table_elements",): 40,
        ("pods",): 3,
        ("policies", "enforced"): 2,
        ("policies", "invalid"): 1,
        ("enforced_revision", "networkpolicys"): 10,
        ("address_conflicts",): 1,
        ("bypass_findings", "bridge", "bypassed"): 2,
        ("bypass_findings", "flowtable", "warning"): 1,
        ("canary_up",): 0,
        ("repairs_total",): 1,
        ("verify_total", "ok"): 1,
        ("verify_total", "different"): 0,
        ("source_up", "pods"): 0,
        ("source_up", "namespaces"): 1,
        ("ready", "canary"): 0,
        ("ready", "table"): 1,
        ("pending_seconds",): 4,
    }.items():
        assert told[name] == value, name
    commit(status)
    # A revision that is no number is enforced, and no gauge.
    assert ("enforced_revision", "pods") not in await samples(metrics)
    status.canary(None)
    assert ("canary_up",) not in await samples(metrics)


async def test_the_kernels_counters_are_read_at_most_once_a_second(clock: Clock) -> None:
    asked: list[float] = []

    async def denied() -> dict[str, int]:
        asked.append(clock.now)
        if clock.now > 2:
            raise OSError("the kernel is busy")
        return {"new": 7, "live": 1}

    metrics = Metrics(enforcing(clock), denied=denied)
    for now in (0.0, 0.5, 1.5, 3.0):
        clock.now = now
        told = await samples(metrics)
        assert told["denied_packets_total", "new"] == 7
        assert told["denied_packets_total", "live"] == 1
    assert asked == [0.0, 1.5, 3.0]


async def test_openmetrics_is_told_to_who_asks_for_it(clock: Clock) -> None:
    content, media = await Metrics(enforcing(clock)).exposition("application/openmetrics-text")
    assert media.startswith("application/openmetrics-text")
    assert list(openmetrics(content.decode()))  # type: ignore[no-untyped-call]


def test_a_tally_counts_by_the_first_bound_that_is_not_exceeded() -> None:
    tally = Tally((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 99.0):
        tally.add(value)
    assert tally.cumulated() == [("1.0", 2), ("2.0", 3), ("+Inf", 4)]
    assert (tally.count, tally.total) == (4, 102)
    assert (SECONDS[0], SECONDS[-1]) == (0.0005, 10.0)


# The text for people, and addresses.


def text(status: Status, clock: Clock) -> str:
    now = datetime.fromtimestamp(clock.epoch(), UTC)
    return "\n".join(show.render(document(status), now))


def test_people_read_what_is_enforced(clock: Clock) -> None:
    status = enforcing(clock)
    clock.now = 125
    assert text(status, clock) == (
        "Node        node-a\n"
        "Ready       yes\n"
        "Table       inet netpol (owner, persist)\n"
        "Enforced    for 2m5s, digest d1\n"
        "Revisions   namespaces 10, pods 10, networkpolicys 10\n"
        "Pods        3 in 2 classes, 40 elements\n"
        "Last commit 2m5s ago, 8.0 ms after the event\n"
        "Pending     none\n"
        "Policies    2 enforced, 0 invalid\n"
        "Canary      off\n"
        "\n"
        "SOURCE           SERVER                  STATE       FOR    ERROR\n"
        "namespaces       https://10.0.0.1:6443   following   2m5s\n"
        "pods             https://10.0.0.1:6443   following   2m5s\n"
        "networkpolicys   https://10.0.0.1:6443   following   2m5s"
    )


def test_people_read_what_is_wrong_and_no_control_characters(clock: Clock) -> None:
    status = started(clock)
    assert "Enforced    nothing yet" in text(status, clock)
    status = enforcing(clock)
    status.invalid({"a/p": "spec: bad value '\x1b[2J'"})
    status.conflicts({"10.1.0.2": ["a/x", "b/y"]})
    status.bypass([BRIDGE])
    status.heard(PODS, "11")
    status.commit_failed("ENOSPC\x1b[2J")
    status.repaired(4711, "nft", "set iso4")
    status.verified(False, ["x"])
    clock.now = 3
    shown = text(status, clock)
    for line in (
        "Pending     changes since 3s",
        "Last error  3s ago, attempt 1: ENOSPC\ufffd[2J",
        "Last repair 3s ago, after nft[4711]: set iso4",
        "Last verify 3s ago: differences: 1",
        "a/p              spec: bad value '\ufffd[2J'",
        "10.1.0.2                  a/x, b/y",
        "bridge   cni0      bypassed   frames between its ports pass unjudged",
    ):
        assert line in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-3, "0s"), (59.9, "59s"), (61, "1m1s"), (7260, "2h1m"), (90_000, "1d1h")],
)
def test_spans_are_shown_in_two_units(seconds: float, shown: str) -> None:
    assert span(seconds) == shown


def test_moments_are_in_utc() -> None:
    assert rfc3339(START + 0.5) == "2016-04-07T03:33:20.500Z"
    assert datetime.fromisoformat(rfc3339(START)) - datetime.fromtimestamp(0, UTC) == timedelta(
        seconds=START
    )


@pytest.mark.parametrize(
    ("given", "host", "port", "url"),
    [
        ("127.0.0.1:10260", "127.0.0.1", 10260, "http://127.0.0.1:10260"),
        ("[::1]:1", "::1", 1, "http://[::1]:1"),
        ("[10.0.0.7]:10260", "10.0.0.7", 10260, "http://10.0.0.7:10260"),
        ("0.0.0.0:10260", "0.0.0.0", 10260, "http://127.0.0.1:10260"),
        ("[::]:10260", "::", 10260, "http://[::1]:10260"),
    ],
)
def test_an_address_is_one_of_either_family(given: str, host: str, port: int, url: str) -> None:
    endpoint = Endpoint.parse(given)
    assert endpoint == Endpoint(host, port)
    assert endpoint is not None
    assert endpoint.url == url


@pytest.mark.parametrize("given", ["", "0"])
def test_an_address_may_be_off(given: str) -> None:
    assert Endpoint.parse(given) is None


@pytest.mark.parametrize(
    "given",
    ["127.0.0.1", "::1:10260", "localhost:1", ":10260", "1.2.3.4:0", "1.2.3.4:65536", "[::1]:x"],
)
def test_an_address_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"address and port|number from 1"):
        Endpoint.parse(given)


def test_this_host_is_known_by_the_address_of_the_client() -> None:
    here: list[tuple[Any, Any]] = [
        ("127.0.0.1", "127.0.0.1"),
        ("127.8.8.8", "10.0.0.7"),
        ("10.0.0.7", "10.0.0.7"),
        ("::1", "::1"),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1"),
    ]
    assert all(same_host(client, server) for client, server in here)
    assert not same_host("10.1.0.5", "10.0.0.7")
    assert not same_host("::ffff:10.1.0.5", "::ffff:10.0.0.7")
