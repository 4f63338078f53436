"""The record of denied flows, and of those that audit lets through but isolation would deny.

Two sources, both bounded by the kernel: sampled packets (`nft.nflog`), which tell at once that
something happened, and the sets in which the table counts each flow, which are read when somebody
asks. The first become JSON lines, the second, merged with the first, a list. Pure: clocks, the view
of the cluster and the way out of a line are handed in, and neither a flood of packets nor a large
cluster makes a packet more expensive.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

import orjson

from enforcer.flows import listing as flow_list
from enforcer.flows.listing import LIMIT, Element, Pick
from enforcer.flows.reason import View, applicable, why
from enforcer.flows.report import Decision, Key, Party, Record, Report, report
from enforcer.nft.nflog import Seen
from enforcer.telemetry.times import rfc3339

RECORDS = 4096  # flows that are remembered, some 3 MB
LINES = 20  # a second: a person reads none of more, and a day of it is 1 GB
REPEAT = 60.0  # seconds between two lines of one flow
TIMEOUT = 600.0  # seconds after its last packet that an element leaves the kernel's sets
PREFIXES = {"netpol denied": Decision.DENIED, "netpol audit": Decision.AUDITED}


class Flows:
    """`tell` gets each line, with its end, and must not wait.

    `clock` gives seconds since 1970, `monotonic` measures intervals. `ignored` counts packets
    whose prefix is not ours, `written` the lines of flows, `left_out` sums up what the lines about
    those left out have said.
    """

    def __init__(
        self,
        *,
        view: View,
        tell: Callable[[bytes], object],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        records: int = RECORDS,
        lines: int = LINES,
        timeout: float = TIMEOUT,
    ) -> None:
        self.ignored = 0
        self.written = 0
        self.left_out = 0
        self._view = view
        self._tell = tell
        self._clock = clock
        self._monotonic = monotonic
        self._most = records
        self._lines = lines
        self._timeout = timeout
        self._records: OrderedDict[Key, Record] = OrderedDict()
        self._second = monotonic()  # when the present second began
        self._spent = 0  # lines in it
        self._period = 1  # from one line about what is left out to the next
        self._period_since = clock()
        self._missing = 0  # flows that had to go without a line in it

    def __len__(self) -> int:
        """The flows that are remembered."""
        return len(self._records)

    def see(self, seen: Seen) -> None:
        """Take in a logged packet; at most one line about its flow, and one about those left out.

        A line is due when a flow is first seen, and a minute after its last one. One that is left
        out stays due.
        """
        decision = PREFIXES.get(seen.prefix)
        if decision is None:
            self.ignored += 1
            return
        self.tick()
        key = Key(decision, seen.source, seen.destination, seen.protocol, seen.port)
        moment = self._clock() if seen.time is None else seen.time
        record = self._remembered(key, moment)
        record.count += 1
        record.last = max(record.last, moment)
        now = self._monotonic()
        if record.told is not None and now - record.told < REPEAT:
            return
        if self._spent < self._lines:
            self._spent += 1
            self._write(key, record, now)
        elif record.left_out != self._period:
            record.left_out = self._period
            self._missing += 1

    def tick(self) -> None:
        """Say what was left out when its second is over. Call it once a second or so."""
        now = self._monotonic()
        if now - self._second < 1:
            return
        self._second, self._spent = now, 0
        count, since = self._missing, self._period_since
        self._missing, self._period_since = 0, self._clock()
        if count:
            self._period += 1
            self.left_out += count
            self._line({"time": rfc3339(self._clock()), "leftOut": count, "since": rfc3339(since)})

    def merge(
        self,
        elements: Iterable[Element],
        *,
        namespace: str = "",
        pod: str = "",
        verdict: str = "",
        limit: int = LIMIT,
    ) -> list[Report]:
        """The flows in the kernel's sets and in the records; see `flow_list`."""
        return flow_list.merge(
            elements,
            self._records,
            view=self._view,
            now=self._clock(),
            timeout=self._timeout,
            pick=Pick(namespace, pod, verdict),
            limit=limit,
        )

    def _remembered(self, key: Key, moment: float) -> Record:
        """The record of a flow, as the one used last; a new one where its pods are others."""
        source, destination = (
            Party.at(self._view, key.source),
            Party.at(self._view, key.destination),
        )
        record = self._records.get(key)
        if record is None or (record.source, record.destination) != (source, destination):
            record = self._records[key] = Record(source, destination, moment, moment)
        self._records.move_to_end(key)
        if len(self._records) > self._most:
            self._records.popitem(last=False)
        return record

    def _write(self, key: Key, record: Record, now: float) -> None:
        record.told = now
        if record.left_out == self._period:
            record.left_out = 0
            self._missing -= 1
        self.written += 1
        told = report(
            key,
            record.source,
            record.destination,
            count=record.count,
            since=record.first,
            last=record.last,
            why=why(self._view, key.flow, lambda pod: applicable(self._view, pod)),
        )
        self._line({"time": rfc3339(self._clock()), **told})

    def _line(self, content: dict[str, object]) -> None:
        self._tell(orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE))
