"""An enforcer's `Status` on a clock that the test moves, and told what an enforcer tells it."""

from dataclasses import dataclass

from enforcer.telemetry.status import RESOURCES, Status

START = 1_460_000_000.0  # 2016-04-07T03:33:20Z
CLUSTER = "https://10.0.0.1:6443"


class Clock:
    """Seconds since the start, for both of the clocks that a status has."""

    def __init__(self) -> None:
        self.now = 0.0

    def epoch(self) -> float:
        return START + self.now

    def monotonic(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Found:
    """A finding on the host."""

    kind: str
    subject: str
    text: str
    severity: str


@dataclass(frozen=True, slots=True)
class Probed:
    """The outcome of a canary's probe."""

    enforced: bool
    text: str


BRIDGE = Found("bridge", "cni0", "frames between its ports pass unjudged", "bypassed")
WARNING = Found("flowtable", "inet fw", "it offloads nothing yet", "warning")


def started(clock: Clock, node: str = "node-a") -> Status:
    """As it is when nothing has been heard."""
    return Status(node=node, clock=clock.epoch, monotonic=clock.monotonic)


def listed(status: Status, revision: str = "10") -> None:
    """All three resources have been listed."""
    for resource in RESOURCES:
        status.following(resource, True, server=CLUSTER)
        status.heard(resource, revision)
        status.synced(resource)


def commit(status: Status, digest: str = "d1", enforce: float | None = 0.008) -> None:
    """What was heard so far is committed."""
    status.committing()
    status.committed(
        dict(status.revisions),
        digest=digest,
        pods=3,
        policies=2,
        elements=40,
        changed=5,
        classes=2,
        compute_seconds=0.002,
        commit_seconds=0.001,
        oldest_event_seconds=enforce,
    )


def enforcing(clock: Clock) -> Status:
    """Everything is listed and committed."""
    status = started(clock)
    status.table("inet netpol", ("owner", "persist"))
    listed(status)
    commit(status)
    return status
