"""The cluster's objects, in the server and as the reference verdict reads them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

import policy
from policy import Cluster, Flow
from tests.lab.agents import Probe
from tests.lab.world import NODE, Host, World

POLICIES = "/apis/net.alpha.kubernetes.io/v1alpha1"
NODE_NAME = "node-1"

Json = dict[str, Any]


@dataclass(slots=True)
class PodSpec:
    """A pod of the lab: which host of the world it is, and what the API says of it."""

    namespace: str
    name: str
    labels: Mapping[str, str]
    ips: tuple[str, ...]
    ports: tuple[Mapping[str, Any], ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    phase: str = "Running"

    @property
    def host(self) -> str:
        return self.name


class Api:
    """Writes objects to the server; every method raises on an answer that is an error."""

    def __init__(
        self, http: httpx.AsyncClient, *, nodes: Mapping[str, Iterable[str]] | None = None
    ) -> None:
        """`nodes` are all addresses of each."""
        self._http = http
        self._nodes = nodes if nodes is not None else {NODE_NAME: NODE}

    async def namespace(self, name: str, *, labels: Mapping[str, str] | None = None) -> None:
        meta = {"name": name, "labels": dict(labels or {})}
        await self.create("/api/v1/namespaces", {"kind": "Namespace", "metadata": meta})

    async def isolate(self, name: str, value: str | None) -> None:
        annotations = {policy.ISOLATION_ANNOTATION: value}
        await self.patch(f"/api/v1/namespaces/{name}", {"metadata": {"annotations": annotations}})

    async def pod(self, pod: PodSpec) -> None:
        path = f"/api/v1/namespaces/{pod.namespace}/pods"
        containers = [{"name": "main", "image": "none", "ports": list(pod.ports)}]
        await self.create(
            path,
            {
                "kind": "Pod",
                "metadata": {"name": pod.name, "labels": dict(pod.labels)},
                "spec": {"nodeName": NODE_NAME, "containers": containers, **pod.fields},
            },
        )
        await self.address(pod.namespace, pod.name, pod.ips, phase=pod.phase)

    async def address(
        self, namespace: str, name: str, ips: Iterable[str], *, phase: str = "Running"
    ) -> None:
        listed = list(ips)
        found = {
            "phase": phase,
            "podIP": listed[0] if listed else None,
            "podIPs": [{"ip": ip} for ip in listed],
        }
        await self.patch(f"/api/v1/namespaces/{namespace}/pods/{name}/status", {"status": found})

    async def label(self, namespace: str, pod: str, labels: Mapping[str, str | None]) -> None:
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}"
        await self.patch(path, {"metadata": {"labels": dict(labels)}})

    async def policy(self, namespace: str, name: str, spec: Mapping[str, Any]) -> None:
        path = f"{POLICIES}/namespaces/{namespace}/networkpolicys"
        await self.create(
            path, {"kind": "NetworkPolicy", "metadata": {"name": name}, "spec": dict(spec)}
        )

    async def drop_policy(self, namespace: str, name: str) -> None:
        await self.delete(f"{POLICIES}/namespaces/{namespace}/networkpolicys/{name}")

    async def create(self, path: str, body: Json) -> Json:
        return self._checked(await self._http.post(path, json=body))

    async def patch(self, path: str, body: Json) -> Json:
        headers = {"Content-Type": "application/merge-patch+json"}
        return self._checked(await self._http.patch(path, json=body, headers=headers))

    async def delete(self, path: str) -> Json:
        return self._checked(await self._http.delete(path))

    async def cluster(self) -> Cluster:
        """What the server holds, as the reference verdict reads it."""
        namespaces = [policy.namespace(o) for o in await self._items("/api/v1/namespaces")]
        return Cluster(
            namespaces={item.name: item for item in namespaces},
            pods=tuple(policy.pod(o) for o in await self._items("/api/v1/pods")),
            policies=tuple(
                policy.parse(o) for o in await self._items(f"{POLICIES}/networkpolicys")
            ),
            nodes={name: frozenset(ips) for name, ips in self._nodes.items()},
        )

    async def _items(self, path: str) -> list[Json]:
        items: list[Json] = self._checked(await self._http.get(path))["items"]
        return items

    def _checked(self, answer: httpx.Response) -> Json:
        body: Json = answer.json()
        if answer.is_error:
            raise RuntimeError(f"{answer.request.method} {answer.request.url}: {body['message']}")
        return body


def expected(world: World, cluster: Cluster, probes: Iterable[Probe]) -> dict[Probe, bool]:
    """What the reference verdict says of each probe."""
    return judged({"node": world.node, **world.hosts}, cluster, probes)


@dataclass(frozen=True, slots=True)
class Arrival:
    """What becomes of a packet to a Service on its way; `source` where that is hidden."""

    address: str
    port: int
    source: str = ""


def judged(
    hosts: Mapping[str, Host],
    cluster: Cluster,
    probes: Iterable[Probe],
    arrives: Callable[[Probe], Arrival | None] = lambda probe: None,
) -> dict[Probe, bool]:
    """The same for any hosts, and by way of Services."""
    answers = {}
    for probe in probes:
        six = ":" in probe.address
        source = next(ip for ip in hosts[probe.source].ips if (":" in ip) == six)
        end = arrives(probe) or Arrival(probe.address, probe.port)
        flow = Flow(end.source or source, end.address, probe.protocol.upper(), end.port or None)
        answers[probe] = policy.verdict(cluster, flow).allowed
    return answers
