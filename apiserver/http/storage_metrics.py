"""What Prometheus reads of the store and of the watch cache before it, under upstream's names.

k8s.io/apiserver `pkg/storage/etcd3/metrics` and `pkg/storage/cacher/metrics`; the first begin with
`etcd` whatever the engine is, so that dashboards made for kube-apiserver work.
"""

from collections.abc import Callable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from apiserver.cache.cacher import Cacher
from apiserver.registry.measured import Measured
from apiserver.registry.reader import Reader

OF_RESOURCE = ("group", "resource")
OF_OPERATION = ("operation", "group", "resource")


def collector(store: Measured, cacher: Cacher, reader: Reader) -> Callable[[], Iterator[Metric]]:
    """A source for `Metrics`."""

    def collect() -> Iterator[Metric]:
        yield from _of_store(store)
        yield from _of_cache(cacher)
        yield _reads(reader)

    return collect


def _of_store(store: Measured) -> Iterator[Metric]:
    durations = HistogramMetricFamily(
        "etcd_request_duration_seconds", "Time of a request to the store.", labels=OF_OPERATION
    )
    requests = CounterMetricFamily("etcd_requests", "Requests to the store.", labels=OF_OPERATION)
    failures = CounterMetricFamily(
        "etcd_request_errors", "Requests that the store could not answer.", labels=OF_OPERATION
    )
    for operation, tally in list(store.durations.items()):
        durations.add_metric(operation, tally.cumulated(), tally.total)
        requests.add_metric(operation, tally.count)
        failures.add_metric(operation, store.failures[operation])
    counted = CounterMetricFamily(
        "apiserver_storage_engine",
        "What the engine counts of its own work.",
        labels=("engine", "kind"),
    )
    for kind, number in store.counted().items():
        counted.add_metric((store.name, kind), number)
    yield counted
    yield durations
    yield requests
    yield failures


def _of_cache(cacher: Cacher) -> Iterator[Metric]:
    objects = GaugeMetricFamily("apiserver_resource_objects", "Stored objects.", labels=OF_RESOURCE)
    broken = GaugeMetricFamily(
        "apiserver_storage_undecodable_objects",
        "Stored objects that do not decode: they are neither listed nor watched.",
        labels=OF_RESOURCE,
    )
    version = GaugeMetricFamily(
        "apiserver_watch_cache_resource_version",
        "The resourceVersion to which the watch cache is complete.",
        labels=OF_RESOURCE,
    )
    received = CounterMetricFamily(
        "apiserver_watch_cache_events_received", "Events from the store.", labels=OF_RESOURCE
    )
    kept = GaugeMetricFamily(
        "apiserver_watch_cache_events_kept",
        "Events from which a watch can go on without the store.",
        labels=OF_RESOURCE,
    )
    for state in cacher.all():
        resource = state.resource
        named = (resource.group, resource.plural)
        objects.add_metric(named, len(state))
        broken.add_metric(named, len(state.broken))
        version.add_metric(named, state.revision)
        received.add_metric(named, cacher.received[resource.prefix])
        kept.add_metric(named, len(state.ring))
    starts = CounterMetricFamily(
        "apiserver_watch_cache_initializations", "Lists that the watch cache began with."
    )
    starts.add_metric((), cacher.starts)
    yield from (objects, broken, version, received, kept, starts)


def _reads(reader: Reader) -> Metric:
    reads = CounterMetricFamily(
        "apiserver_watch_cache_consistent_read",
        "Reads of the newest state, and whether the watch cache could answer them.",
        labels=(*OF_RESOURCE, "success"),
    )
    for (resource, success), count in list(reader.consistent.items()):
        named = (resource.group, resource.plural, str(success).lower())
        reads.add_metric(named, count)
    return reads
