"""Many seeded clients at the same time, each doing one operation after the other.

What each does next depends on the seed alone. An operation that no server took is asked again and
not counted, so an outage costs time and no operations.
"""

import asyncio
import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.faults import policies
from tests.faults.choose import Choice, choose, fitting
from tests.faults.client import Client, NotSent, Server
from tests.faults.history import Kind, Operation, Outcome, Recorder

CLIENTS = 16
BACKOFF = 0.05  # seconds after what failed
TIMEOUTS = (1.5, 6.0)  # seconds that a request may take: some clients hang up, some hear it all


@dataclass(slots=True)
class Workload:
    """`operations` in all; `unsent` counts what no server took. `done` is of all clients."""

    servers: Sequence[Server]
    seed: int
    operations: int
    recorder: Recorder
    done: int = 0
    unsent: int = 0
    _started: int = 0
    _known: dict[str, int | None] = field(default_factory=dict)
    _old: dict[str, int] = field(default_factory=dict)
    _waiting: list[tuple[int, int, asyncio.Event]] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.done >= self.operations

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(CLIENTS):
                tasks.create_task(self._client(number), name=f"client {number}")

    async def reached(self, operations: int) -> None:
        """Return when that many are done, or all."""
        operations = min(operations, self.operations)
        if self.done < operations:
            reached = asyncio.Event()
            heapq.heappush(self._waiting, (operations, id(reached), reached))
            await reached.wait()

    async def _client(self, number: int) -> None:
        name, rand = f"c{number}", random.Random(f"{self.seed}-{number}")
        client = Client(self.servers, first=number, timeout=TIMEOUTS[number % len(TIMEOUTS)])
        count = 0
        try:
            while self._started < self.operations:
                self._started += 1
                count += 1
                operation = await self._one(client, choose(rand), name, count)
                self._learn(operation)
                self.done += 1
                while self._waiting and self.done >= self._waiting[0][0]:
                    heapq.heappop(self._waiting)[2].set()
                if operation.outcome in (Outcome.UNKNOWN, Outcome.REFUSED):
                    await asyncio.sleep(BACKOFF)
        finally:
            client.close()

    async def _one(self, client: Client, choice: Choice, name: str, count: int) -> Operation:
        while True:
            known = self._known.get(choice.key, 0)
            expected = self._old.get(choice.key, 1) if choice.stale else known or 0
            try:
                return await policies.perform(
                    client,
                    self.recorder,
                    name=name,
                    kind=fitting(choice, known),
                    key=choice.key,
                    value=f"{name}-{count}-{choice.colour}",
                    expected=expected if choice.conditional else 0,
                )
            except NotSent:
                self.unsent += 1
                await asyncio.sleep(BACKOFF)

    def _learn(self, operation: Operation) -> None:
        """What the next may expect of the key. It need not be right: then there is a conflict."""
        for item in operation.found:
            self._note(item.key, item.revision)
        match operation.outcome:
            case Outcome.DONE if operation.kind is Kind.DELETE:
                self._known[operation.key] = 0
            case Outcome.ABSENT:
                self._known[operation.key] = 0
            case Outcome.CONFLICT | Outcome.UNKNOWN:
                self._known[operation.key] = None

    def _note(self, key: str, revision: int) -> None:
        known = self._known.get(key)
        if known and known < revision:
            self._old[key] = known
        self._known[key] = max(known or 0, revision)
