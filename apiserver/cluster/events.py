"""Events in the cluster for what an operator should see: `kubectl describe` and `get events`.

Every log line with a `reason` becomes one. The same is told again after a while only, and what the
cluster cannot be told in time is dropped: it stands in the log as well. What requests bring about
is told once for each policy or webhook, without the words of the request, and takes no other's
place.
"""

import asyncio
import datetime
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from apiserver.cluster.client import Cluster, Refused, Unreachable

AGAIN = 600.0  # seconds until the same is told once more
BURST = 25  # events in that time, as upstream's spam filter
OF_REQUESTS = 25  # as many again for what anybody who writes can bring about
WAITING = 100  # events that wait for the cluster
RETRY = 5.0  # seconds
LONGEST = 1024  # characters of a message, as the API takes them
API_SERVICE = "v1alpha1.net.alpha.kubernetes.io"
COMPONENT = "netpol-apiserver"
SUBJECTS = ("policy", "binding", "webhook", "configuration", "expression")
DETAILS = (*SUBJECTS, "error", "key", "path", "hint")
BY_REQUESTS = {
    "BadAdmissionPolicy", "EvaluationEnded", "FailedAdmissionPolicy", "FailedCallingWebhook",
    "FailedMatchConditions",
}  # fmt: skip
QUOTING = {"FailedAdmissionPolicy", "FailedMatchConditions"}  # errors with words of the request

log = structlog.get_logger()


class Recorder:
    """Tells of the pod that it is in; outside of one, of the APIService."""

    def __init__(
        self, cluster: Cluster, *, in_pod: bool, clock: Callable[[], float] = time.time
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._told: dict[tuple[str, str], float] = {}
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(WAITING)
        self._host = socket.gethostname()
        self._namespace = cluster.access.namespace if in_pod else "default"
        self._about = (
            {"apiVersion": "v1", "kind": "Pod", "name": os.environ.get("HOSTNAME", self._host)}
            if in_pod
            else {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "name": API_SERVICE,
            }
        )

    def take(self, line: Mapping[str, Any]) -> None:
        """A line of the log that has a `reason`."""
        reason, by_request = str(line["reason"]), line["reason"] in BY_REQUESTS
        told = [name for name in DETAILS if name != "error" or reason not in QUOTING]
        details = [f"{name}: {line[name]}" for name in told if line.get(name)]
        message = "; ".join([str(line["event"]), *details])[:LONGEST]
        subject = "; ".join(str(line.get(name) or "") for name in SUBJECTS)
        key, now = (reason, subject if by_request else message), self._clock()
        if self._told.get(key, 0.0) + AGAIN > now:
            return
        self._told = {k: at for k, at in self._told.items() if at + AGAIN > now}
        like = sum((other in BY_REQUESTS) == by_request for other, _ in self._told)
        if like < (OF_REQUESTS if by_request else BURST) and not self._queue.full():
            self._told[key] = now
            self._queue.put_nowait(self._event(reason, message))

    async def run(self) -> None:
        """For ever."""
        while True:
            event = await self._queue.get()
            path = f"/api/v1/namespaces/{self._namespace}/events"
            while True:
                try:
                    await self._cluster.post(path, event)
                except Unreachable:
                    await asyncio.sleep(RETRY)
                    continue
                except Refused as error:
                    log.warning("an event was refused", error=str(error))
                break

    def _event(self, reason: str, message: str) -> dict[str, Any]:
        now = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)
        at = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        name = f"{self._about['name']}.{secrets.token_hex(8)}"
        return {
            "kind": "Event",
            "apiVersion": "v1",
            "metadata": {"name": name, "namespace": self._namespace},
            "involvedObject": {**self._about, "namespace": self._namespace},
            "reason": reason,
            "message": message,
            "type": "Warning",
            "source": {"component": COMPONENT, "host": self._host},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._host,
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }
