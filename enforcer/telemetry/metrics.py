"""What Prometheus reads at `/metrics`: a `Status`, and what the kernel counted.

A commit changes plain numbers in the `Status`; they become samples when somebody looks. No label
carries a name that a user chose.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from enforcer.telemetry import checks
from enforcer.telemetry.status import Status
from enforcer.telemetry.tally import Tally

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text"
PREFIX = "netpol_enforcer_"
FRESH = 1.0  # seconds for which the kernel's counters are not read again
PATIENCE = 1.0  # seconds that a scrape waits for the kernel, which a long commit keeps busy

# Packets by reason, since the table was made; read from the kernel.
Denied = Callable[[], Awaitable[Mapping[str, int]]]

log = structlog.get_logger()


async def _nothing() -> Mapping[str, int]:
    return {}


class Metrics:
    """One registry with all that this process measures.

    `denied` is asked at a scrape, at most once a second. Where it fails or takes too long, the
    last values are told again: a counter does not go back.
    """

    def __init__(self, status: Status, *, denied: Denied = _nothing) -> None:
        self._status = status
        self._denied = denied
        self._packets: Mapping[str, int] = {}
        self._read = float("-inf")
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._registry.register(_Collected(self._collect))

    async def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """The text and its media type; OpenMetrics where `accept` asks for it."""
        await self._ask_kernel()
        if OPENMETRICS in accept:
            text: bytes = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return text, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), TEXT

    async def _ask_kernel(self) -> None:
        now = self._status.monotonic()
        if now - self._read < FRESH:
            return
        self._read = now
        try:
            async with asyncio.timeout(PATIENCE):
                self._packets = dict(await self._denied())
        except Exception as error:  # noqa: BLE001  whatever it is, the other metrics are told
            log.warning("the kernel's counters cannot be read", error=repr(error))

    def _collect(self) -> Iterator[Metric]:
        yield from _commits(self._status)
        yield from _ruleset(self._status)
        yield from _health(self._status)
        packets = CounterMetricFamily(
            PREFIX + "denied_packets",
            "Packets that were dropped or rejected, since the table was made.",
            labels=("reason",),
        )
        for reason, count in self._packets.items():
            packets.add_metric((reason,), count)
        yield packets


def _commits(status: Status) -> Iterator[Metric]:
    counts = status.counts
    stages = HistogramMetricFamily(
        PREFIX + "stage_duration_seconds",
        "Time from the arrival of an event to the start of the work (watch), of compiling and"
        " comparing (compute), and of the transaction (commit).",
        labels=("stage",),
    )
    for stage, tally in (
        ("watch", counts.watch),
        ("compute", counts.compute),
        ("commit", counts.commit),
    ):
        stages.add_metric((stage,), tally.cumulated(), tally.total)
    yield stages
    yield _histogram(
        "time_to_enforce_seconds",
        "Time from the arrival of the oldest event of a commit to the end of the commit.",
        counts.enforce,
    )
    commits = CounterMetricFamily(
        PREFIX + "commits", "Attempts to make the kernel equal to the policies.", labels=("result",)
    )
    for result, count in counts.commits.items():
        commits.add_metric((result,), count)
    yield commits
    yield _counter("elements_changed", "Elements of sets and maps changed.", counts.changed)
    yield _gauge(
        "last_commit_timestamp_seconds",
        "When the last transaction ended, in seconds of the epoch; 0 before the first.",
        0 if status.last_commit is None else status.last_commit.at,
    )
    yield _gauge(
        "pending_seconds",
        "Age of the oldest change that is not enforced; 0 where every one is.",
        status.pending_seconds() or 0,
    )


def _ruleset(status: Status) -> Iterator[Metric]:
    enforced = status.enforced
    pods, policies, elements = (
        (0, 0, 0) if enforced is None else (enforced.pods, enforced.policies, enforced.elements)
    )
    yield _gauge("table_elements", "Elements of the sets and maps in the kernel.", elements)
    yield _gauge("pods", "Pods of this node that are in the table.", pods)
    counted = GaugeMetricFamily(
        PREFIX + "policies",
        "Policies that are enforced, and those that are wrong and grant nothing.",
        labels=("state",),
    )
    counted.add_metric(("enforced",), policies)
    counted.add_metric(("invalid",), len(status.invalid_policies))
    yield counted
    revisions = GaugeMetricFamily(
        PREFIX + "enforced_revision",
        "The resourceVersion to which a resource is enforced.",
        labels=("resource",),
    )
    for resource, revision in () if enforced is None else enforced.revisions.items():
        if revision.isdecimal():
            revisions.add_metric((resource,), int(revision))
    yield revisions
    yield _gauge(
        "address_conflicts", "Addresses that several pods claim.", len(status.address_conflicts)
    )


def _health(status: Status) -> Iterator[Metric]:
    verdicts = GaugeMetricFamily(
        PREFIX + "ready", "Whether a check of /readyz passes.", labels=("check",)
    )
    for check in checks.ready(status):
        verdicts.add_metric((check.name,), check.ok)
    yield verdicts
    sources = GaugeMetricFamily(
        PREFIX + "source_up", "Whether the server of a resource answers.", labels=("resource",)
    )
    for source in status.sources.values():
        sources.add_metric((source.resource,), source.ok)
    yield sources
    findings = GaugeMetricFamily(
        PREFIX + "bypass_findings",
        "Findings on this host by which packets could pass unjudged.",
        labels=("kind", "severity"),
    )
    numbers: dict[tuple[str, str], int] = {}
    for finding in status.findings:
        named = (str(finding.kind), str(finding.severity))
        numbers[named] = numbers.get(named, 0) + 1
    for named, number in numbers.items():
        findings.add_metric(named, number)
    yield findings
    if status.probe is not None and status.probe.ok is not None:
        yield _gauge("canary_up", "Whether the last probe went as expected.", status.probe.ok)
    yield _counter(
        "repairs", "Changes by other processes that were put right.", status.counts.repairs
    )
    verifications = CounterMetricFamily(
        PREFIX + "verify", "Comparisons of the kernel with the ruleset.", labels=("result",)
    )
    for result, count in status.counts.verifications.items():
        verifications.add_metric((result,), count)
    yield verifications


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def _histogram(name: str, text: str, tally: Tally) -> Metric:
    return HistogramMetricFamily(
        PREFIX + name, text, buckets=tally.cumulated(), sum_value=tally.total
    )


class _Collected(Collector):
    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()
