"""A flow as it is remembered, and as it is shown: in the lines, the list and the command. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Self, TypedDict

from enforcer.flows.reason import NearestMiss, View, Why
from enforcer.telemetry.times import rfc3339
from policy import Flow


class Decision(StrEnum):
    """What became of the packets: dropped, or let through although isolation would drop them."""

    DENIED = "denied"
    AUDITED = "audited"


class Key(NamedTuple):
    """What makes a flow: all packets that are equal in this are one."""

    decision: Decision
    source: str
    destination: str
    protocol: str
    port: int | None

    @property
    def flow(self) -> Flow:
        return Flow(self.source, self.destination, self.protocol, self.port)


class Party(NamedTuple):
    """One end of a flow; without a known pod the names are empty."""

    address: str
    namespace: str = ""
    pod: str = ""

    @classmethod
    def at(cls, view: View, address: str) -> Self:
        pod = view.owner(address)
        return cls(address) if pod is None else cls(address, pod.namespace, pod.name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod}" if self.pod else self.address


@dataclass(slots=True)
class Record:
    """What logged packets have told of a flow, with the pods as they were then.

    `first` and `last` are seconds since 1970, `told` is when a line was written, on the clock of
    intervals; `left_out` numbers the period in which it last had to go without.
    """

    source: Party
    destination: Party
    first: float
    last: float
    count: int = 0
    told: float | None = None
    left_out: int = 0


class Report(TypedDict):
    """The fields are explained in docs/flows.md."""

    verdict: str
    source: str
    sourceAddress: str
    destination: str
    destinationAddress: str
    protocol: str
    port: int | None
    count: int
    since: str
    last: str
    reason: str
    nearestMiss: NearestMiss | None


def report(
    key: Key, source: Party, destination: Party, *, count: int, since: float, last: float, why: Why
) -> Report:
    """`since` and `last` are seconds since 1970."""
    return Report(
        verdict=key.decision.value,
        source=str(source),
        sourceAddress=key.source,
        destination=str(destination),
        destinationAddress=key.destination,
        protocol=key.protocol,
        port=key.port,
        count=count,
        since=rfc3339(since),
        last=rfc3339(last),
        reason=why.reason,
        nearestMiss=why.nearest,
    )
