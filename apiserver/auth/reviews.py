"""What the cluster is asked of users: answers are kept for a while, and equal questions asked once.

Both reviews are a POST that costs the cluster a look at its own state; a busy client would ask the
same a thousand times a second.
"""

import asyncio
import random
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

from apiserver.cluster.client import Cluster, Json, Refused, Unreachable

ATTEMPTS = 5
FIRST_WAIT, FACTOR, JITTER = 0.5, 1.5, 0.2  # seconds; `plugin/pkg/authorizer/webhook/webhook.go`
AT_ONCE = 100  # questions of a kind: whoever has no credentials can make us ask
GIVE_UP = 10.0  # seconds for all attempts

T = TypeVar("T")


class Counted:
    """What the cluster was asked, by the HTTP code of its answer, and what needed no asking."""

    def __init__(self) -> None:
        self.slots = asyncio.Semaphore(AT_ONCE)
        self.codes: Counter[str] = Counter()
        self.cache: Counter[str] = Counter()


class Kept(Generic[T]):
    """Answers by question; `seconds` tells how long one holds, 0 that it does not.

    What fails is told to all who wait for it, and not kept.
    """

    def __init__(
        self,
        seconds: Callable[[T], float],
        *,
        limit: int,
        clock: Callable[[], float],
        counted: Counted,
    ) -> None:
        self._counted = counted
        self._seconds = seconds
        self._limit = limit
        self._clock = clock
        self._known: OrderedDict[Hashable, tuple[float, T]] = OrderedDict()
        self._asking: dict[Hashable, asyncio.Task[T]] = {}

    async def get(self, question: Hashable, ask: Callable[[], Awaitable[T]]) -> T:
        known = self._known.get(question)
        if known is not None and known[0] > self._clock():
            self._counted.cache["hit"] += 1
            return known[1]
        self._counted.cache["miss"] += 1
        task = self._asking.get(question)
        if task is None:
            task = self._asking[question] = asyncio.ensure_future(self._ask(question, ask))
        # Who asked first may go away; the others still wait.
        return await asyncio.shield(task)

    async def _ask(self, question: Hashable, ask: Callable[[], Awaitable[T]]) -> T:
        try:
            answer = await ask()
        finally:
            del self._asking[question]
        if (seconds := self._seconds(answer)) > 0:
            self._known[question] = (self._clock() + seconds, answer)
            self._known.move_to_end(question)
            if len(self._known) > self._limit:
                self._known.popitem(last=False)
        return answer


async def review(
    cluster: Cluster, path: str, body: Json, rand: random.Random, counted: Counted
) -> Json:
    """The answer's `status`. Tried again while the cluster is out of reach; then `Unreachable`.

    `Refused` where it does not let us ask, which no repetition changes.
    """
    wait = FIRST_WAIT
    async with asyncio.timeout(GIVE_UP) as limit, counted.slots:
        for left in reversed(range(ATTEMPTS)):
            try:
                answer = await cluster.post(path, body)
                found: Any = answer.get("status")
                if not isinstance(found, dict):
                    raise Unreachable(f"{path} answered without a status")
                counted.codes["201"] += 1
                return found
            except Refused as error:
                counted.codes[str(error.code)] += 1
                if not left or (error.code < 500 and error.code != 429):
                    raise
            except Unreachable:
                counted.codes["<error>"] += 1
                if not left or asyncio.get_running_loop().time() + wait > (limit.when() or 0):
                    raise
            await asyncio.sleep(wait * (1 + rand.random() * JITTER))
            wait *= FACTOR
    raise AssertionError("the last attempt returns or raises")
