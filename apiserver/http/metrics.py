"""What Prometheus reads at `/metrics`, under upstream's names.

k8s.io/apiserver `pkg/endpoints/metrics`. No label carries a name that a user chose.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from apiserver.api.resource import Resource
from apiserver.api.tally import SECONDS, Tally
from apiserver.http.limits import Limits
from apiserver.http.request_info import RequestInfo

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text"
SIZES = tuple(1024.0 * 2**power for power in range(8))  # bytes of a watch event, upstream's buckets
VERBS = {"create": "POST", "update": "PUT", "get": "GET"}  # the others in upper case
KIND = ("group", "version", "resource", "subresource", "scope", "verb")


class Asked(NamedTuple):
    """What distinguishes a request in the metrics; all empty for no resource's path."""

    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    scope: str = ""
    verb: str = ""

    @classmethod
    def of(cls, info: RequestInfo | None, method: str, apply: bool = False) -> "Asked":
        if info is None:
            return cls(verb=method if method in ("GET", "HEAD", "POST", "PUT", "PATCH") else "")
        verb = "APPLY" if apply else VERBS.get(info.verb, info.verb.upper())
        resource = info.resource
        return cls(
            resource.group, resource.version, resource.plural, info.subresource, info.scope, verb
        )


class Metrics:
    """One registry with all that this process measures.

    What a request changes are plain numbers, collected when somebody looks: the counters of
    prometheus_client take a lock for each addition, and a read would pay for five. `sources` give
    what others count.
    """

    def __init__(
        self, *, limits: Limits, sources: Sequence[Callable[[], Iterator[Metric]]] = ()
    ) -> None:
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._long = Gauge(
            "apiserver_longrunning_requests",
            "Watches that are open.",
            (*KIND, "component"),
            registry=self._registry,
        )
        self._terminated = Counter(
            "apiserver_terminated_watchers",
            "Watches ended because their clients were too slow.",
            ("group", "resource"),
            registry=self._registry,
        )
        self._requests: dict[tuple[Asked, str, int], Tally] = {}
        self._events: dict[Resource, Tally] = {}
        self._limits = limits
        self._registry.register(_Collected(self._collect))
        for source in sources:
            self._registry.register(_Collected(source))

    def done(self, asked: Asked, dry_run: str, code: int, seconds: float) -> None:
        """Count an answered request."""
        tally = self._requests.get((asked, dry_run, code))
        if tally is None:
            tally = self._requests[asked, dry_run, code] = Tally(SECONDS)
        tally.add(seconds)

    def open_watches(self, resource: Resource) -> Gauge:
        """How many watches of a resource are open."""
        return self._long.labels(
            resource.group, resource.version, resource.plural, "", "", "WATCH", "apiserver"
        )

    def terminated(self, resource: Resource) -> None:
        """Count a watch that fell behind."""
        self._terminated.labels(resource.group, resource.plural).inc()

    def watch_events(self, resource: Resource) -> Tally:
        """The sizes in bytes of the events that the watches of a resource are sent."""
        return self._events.setdefault(resource, Tally(SIZES))

    async def serve(self, request: Request) -> Response:
        """The exposition, rendered in a thread; OpenMetrics where that is asked for."""
        if OPENMETRICS in request.headers.get("accept", ""):
            content = await asyncio.to_thread(openmetrics.generate_latest, self._registry)
            media = openmetrics.CONTENT_TYPE_LATEST
        else:
            content, media = await asyncio.to_thread(generate_latest, self._registry), TEXT
        response = Response(content)
        response.headers["Content-Type"] = media
        return response

    def _collect(self) -> Iterator[Metric]:
        yield from self._collect_requests()
        counts = CounterMetricFamily(
            "apiserver_watch_events",
            "Events that watches were sent.",
            labels=("group", "version", "resource"),
        )
        sizes = HistogramMetricFamily(
            "apiserver_watch_events_sizes",
            "Their sizes in bytes.",
            labels=("group", "version", "resource"),
        )
        for resource, tally in list(self._events.items()):
            named = (resource.group, resource.version, resource.plural)
            counts.add_metric(named, tally.count)
            sizes.add_metric(named, tally.cumulated(), tally.total)
        yield counts
        yield sizes
        under_way = GaugeMetricFamily(
            "apiserver_current_inflight_requests",
            "Requests under way, of those that the limits count.",
            labels=("request_kind",),
        )
        under_way.add_metric(("readOnly",), self._limits.reading)
        under_way.add_metric(("mutating",), self._limits.writing)
        yield under_way

    def _collect_requests(self) -> Iterator[Metric]:
        totals = CounterMetricFamily(
            "apiserver_request",
            "Requests by kind and HTTP status code.",
            labels=(*KIND, "component", "dry_run", "code"),
        )
        durations = HistogramMetricFamily(
            "apiserver_request_duration_seconds",
            "Time from a request to the end of its response.",
            labels=(*KIND, "component", "dry_run"),
        )
        sli = HistogramMetricFamily(
            "apiserver_request_sli_duration_seconds",
            "The same for requests that are answered at once, which watches are not.",
            labels=(*KIND, "component"),
        )
        by_dry_run: dict[tuple[str, ...], Tally] = {}
        by_kind: dict[tuple[str, ...], Tally] = {}
        for (asked, dry_run, code), tally in list(self._requests.items()):
            component = "apiserver" if asked.resource else ""
            totals.add_metric((*asked, component, dry_run, str(code)), tally.count)
            _fold(by_dry_run, (*asked, component, dry_run), tally)
            if asked.verb != "WATCH":
                _fold(by_kind, (*asked, component), tally)
        yield totals
        for family, tallies in ((durations, by_dry_run), (sli, by_kind)):
            for labels, tally in tallies.items():
                family.add_metric(labels, tally.cumulated(), tally.total)
            yield family


def _fold(tallies: dict[tuple[str, ...], Tally], labels: tuple[str, ...], more: Tally) -> None:
    tally = tallies.setdefault(labels, Tally(SECONDS))
    tally.count += more.count
    tally.total += more.total
    tally.buckets = [a + b for a, b in zip(tally.buckets, more.buckets, strict=True)]


class _Collected(Collector):
    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()
