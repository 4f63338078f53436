"""What Prometheus reads at `/metrics`, under upstream's names.

k8s.io/apiserver `pkg/endpoints/metrics`. Labels are bound once for each kind of request, so that a
request costs a few additions; no label carries a name that a user chose.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from apiserver.api.resource import Resource
from apiserver.http.limits import Limits
from apiserver.http.request_info import RequestInfo

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text"
SECONDS = (
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3,
    4, 5, 6, 8, 10, 15, 20, 30, 45, 60,
)  # fmt: skip  # upstream's buckets
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


@dataclass(slots=True)
class WatchEvents:
    """The events that the watches of one resource were sent, and their sizes in bytes."""

    count: int = 0
    total: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(SIZES) + 1))

    def add(self, lines: Sequence[bytes], *, times: int = 1) -> None:
        """Count lines that so many watches were sent."""
        for line in lines:
            size = len(line)
            self.total += size * times
            self.buckets[bisect_left(SIZES, size)] += times
        self.count += len(lines) * times


class Metrics:
    """One registry with all that this process measures."""

    def __init__(self, *, limits: Limits) -> None:
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._requests = Counter(
            "apiserver_request_total",
            "Requests by kind and HTTP status code.",
            (*KIND, "component", "dry_run", "code"),
            registry=self._registry,
        )
        self._durations = Histogram(
            "apiserver_request_duration_seconds",
            "Time from a request to the end of its response.",
            (*KIND, "component", "dry_run"),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._sli = Histogram(
            "apiserver_request_sli_duration_seconds",
            "The same for requests that are answered at once, which watches are not.",
            (*KIND, "component"),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._long = Gauge(
            "apiserver_longrunning_requests",
            "Watches that are open.",
            (*KIND, "component"),
            registry=self._registry,
        )
        self._events: dict[Resource, WatchEvents] = {}
        self._bound: dict[tuple[Asked, str, int], tuple[Counter, Histogram, Histogram | None]] = {}
        self._registry.register(_WatchEventsCollector(self._events))
        self._registry.register(_InFlight(limits))

    def done(self, asked: Asked, dry_run: str, code: int, seconds: float) -> None:
        """Count an answered request."""
        bound = self._bound.get((asked, dry_run, code))
        if bound is None:
            component = "apiserver" if asked.resource else ""
            bound = self._bound[asked, dry_run, code] = (
                self._requests.labels(*asked, component, dry_run, str(code)),
                self._durations.labels(*asked, component, dry_run),
                None if asked.verb == "WATCH" else self._sli.labels(*asked, component),
            )
        total, duration, sli = bound
        total.inc()
        duration.observe(seconds)
        if sli is not None:
            sli.observe(seconds)

    def open_watches(self, resource: Resource) -> Gauge:
        """How many watches of a resource are open."""
        return self._long.labels(
            resource.group, resource.version, resource.plural, "", "", "WATCH", "apiserver"
        )

    def watch_events(self, resource: Resource) -> WatchEvents:
        return self._events.setdefault(resource, WatchEvents())

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


class _WatchEventsCollector(Collector):
    def __init__(self, events: dict[Resource, WatchEvents]) -> None:
        self._events = events

    def collect(self) -> Iterator[HistogramMetricFamily | CounterMetricFamily]:
        labels = ("group", "version", "resource")
        counts = CounterMetricFamily(
            "apiserver_watch_events", "Events that watches were sent.", labels=labels
        )
        sizes = HistogramMetricFamily(
            "apiserver_watch_events_sizes", "Their sizes in bytes.", labels=labels
        )
        for resource, events in list(self._events.items()):
            named = (resource.group, resource.version, resource.plural)
            counts.add_metric(named, events.count)
            below, buckets = 0, []
            for limit, count in zip((*map(str, SIZES), "+Inf"), events.buckets, strict=True):
                below += count
                buckets.append((limit, float(below)))
            sizes.add_metric(named, buckets, float(events.total))
        yield counts
        yield sizes


class _InFlight(Collector):
    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def collect(self) -> Iterator[GaugeMetricFamily]:
        gauge = GaugeMetricFamily(
            "apiserver_current_inflight_requests",
            "Requests under way, of those that the limits count.",
            labels=("request_kind",),
        )
        gauge.add_metric(("readOnly",), self._limits.reading)
        gauge.add_metric(("mutating",), self._limits.writing)
        yield gauge
