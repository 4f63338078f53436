"""How audit events are sent to a webhook: in batches, again, up to a bound, and to the end."""

import asyncio
import random
from typing import Any

import orjson

from apiserver.audit import webhook
from apiserver.audit.webhook import Batching, Webhook
from apiserver.cluster.client import Unreachable


class There:
    """What stands at the other end. It fails as long as `failures` is not 0, and may hang."""

    def __init__(self, *, failures: int = 0) -> None:
        self.failures = failures
        self.tries = 0
        self.batches: list[list[Any]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.closed = False

    async def post(self, body: bytes) -> None:
        self.tries += 1
        await self.open.wait()
        if self.failures:
            self.failures -= 1
            raise Unreachable("nobody there")
        found = orjson.loads(body)
        assert found == {
            "kind": "EventList",
            "apiVersion": "audit.k8s.io/v1",
            "metadata": {},
            "items": found["items"],
        }
        self.batches.append(found["items"])

    async def close(self) -> None:
        self.closed = True

    def sending(self, **batching: Any) -> Webhook:
        quick = {"size": 3, "wait": 60.0, "buffer": 10, "backoff": 0.001, **batching}
        return Webhook(self.post, Batching(**quick), closed=self.close, rand=random.Random(1))


async def until(done: Any) -> None:
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0.001)


async def test_a_batch_goes_when_it_is_full_and_the_rest_at_the_end() -> None:
    there = There()
    sent = there.sending()
    for number in range(7):
        sent.add(b"%d" % number)
    await until(lambda: len(there.batches) == 2)
    assert there.batches == [[0, 1, 2], [3, 4, 5]]
    await sent.close()
    assert there.batches == [[0, 1, 2], [3, 4, 5], [6]]
    assert there.closed
    assert sent.loss.count == 0


async def test_an_event_waits_for_others_for_a_while() -> None:
    there = There()
    sent = there.sending(wait=0.05)
    sent.add(b"1")
    sent.add(b"2")
    await until(lambda: there.batches)
    assert there.batches == [[1, 2]]
    await sent.close()


async def test_what_does_not_arrive_is_sent_again() -> None:
    there = There(failures=webhook.ATTEMPTS - 1)
    sent = there.sending(size=1)
    sent.add(b"1")
    await until(lambda: there.batches)
    assert there.tries == webhook.ATTEMPTS
    await sent.close()
    assert sent.loss.count == 0


async def test_what_never_arrives_is_counted() -> None:
    there = There(failures=webhook.ATTEMPTS)
    sent = there.sending()
    for number in range(4):
        sent.add(b"%d" % number)
    await until(lambda: sent.loss.count)
    assert sent.loss.count == 3
    await sent.close()
    assert there.batches == [[3]]


async def test_who_waits_is_told_whatever_the_failure_was() -> None:
    async def post(body: bytes) -> None:
        raise ValueError("a token that is none")

    there, told = There(), list[bool]()
    sent = there.sending()
    sent._post = post
    sent.add(b"1", told.append)
    await until(lambda: told)
    assert (told, sent.loss.count) == ([False], 1)
    await sent.close()


async def test_a_full_buffer_drops_what_comes_and_what_hangs_counts_as_well() -> None:
    there = There()
    there.open.clear()
    sent = there.sending()
    for number in range(12):
        sent.add(b"%d" % number)
        await asyncio.sleep(0)
    assert sent.loss.count == 2
    there.open.set()
    await sent.close()
    assert sorted(event for batch in there.batches for event in batch) == list(range(10))


async def test_the_buffer_is_bounded_in_bytes_too(monkeypatch: Any) -> None:
    monkeypatch.setattr(webhook, "BYTES", 10)
    there = There()
    sent = there.sending()
    sent.add(b'"1234567"')
    sent.add(b"12")
    assert sent.loss.count == 1
    await sent.close()
    assert there.batches == [["1234567"]]


async def test_a_batch_is_bounded_in_bytes(monkeypatch: Any) -> None:
    monkeypatch.setattr(webhook, "BATCH_BYTES", 4)
    there = There()
    sent = there.sending()
    for number in (11, 22, 33):
        sent.add(b"%d" % number)
    await sent.close()
    assert there.batches == [[11, 22], [33]]


async def test_the_end_comes_in_time_whatever_hangs(monkeypatch: Any) -> None:
    monkeypatch.setattr(webhook, "PATIENCE", 0.05)
    there = There()
    there.open.clear()
    sent = there.sending(size=1)
    for number in range(5):
        sent.add(b"%d" % number)
    async with asyncio.timeout(5):
        await sent.close()
    assert sent.loss.count == 5
    sent.add(b"6")
    assert sent.loss.count == 6


async def test_at_the_end_nobody_waits_for_the_next_try() -> None:
    there = There(failures=1)
    sent = there.sending(size=1, backoff=60.0)
    sent.add(b"1")
    await until(lambda: there.tries)
    async with asyncio.timeout(5):
        await sent.close()
    assert there.batches == [[1]]


async def test_who_waits_for_an_event_is_told_of_it_alone() -> None:
    there = There()
    sent = there.sending()
    told: list[bool] = []
    sent.add(b"1")
    sent.add(b"2", told.append)
    await until(lambda: told)
    assert (told, there.batches) == ([True], [[2]])
    there.failures = webhook.ATTEMPTS
    sent.add(b"3", told.append)
    await until(lambda: len(told) == 2)
    assert told == [True, False]
    await sent.close()
    assert there.batches == [[2], [1]]
    assert sent.loss.count == 1
