"""Where the time of an audited request goes, and how that is written."""

import asyncio
import random
from typing import Any

import pytest

from apiserver.api import builtin, duration, latency
from apiserver.registry.gate import Gate
from apiserver.registry.measured import Measured
from apiserver.registry.strategies import STRATEGIES
from apiserver.registry.writer import Where, Writer
from storage.memory import MemoryStore


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (1e-9, "1ns"),
        (0.0000015, "1.5µs"),
        (0.4506649, "450.6649ms"),
        (0.9999999999, "1s"),
        (4.730661757, "4.730661757s"),
        (60, "1m0s"),
        (3605.25, "1h0m5.25s"),
        (-0.5, "-500ms"),
    ],
)
def test_a_duration_is_written_as_go_writes_it(seconds: float, text: str) -> None:
    assert duration.render(seconds) == text
    assert duration.parse(text) == pytest.approx(seconds)


class Open:
    """A gate that lets everything pass."""

    async def admit(self, *ignored: Any, **options: Any) -> None:
        return None


class Slow:
    """Webhooks that take their time."""

    async def mutate(self, operation: str, name: str, obj: Any, old: Any) -> Any:
        await asyncio.sleep(0.02)
        return obj

    async def validate(self, *ignored: Any) -> None:
        await asyncio.sleep(0.01)


async def test_AU04_the_store_and_webhooks_are_charged_to_the_request_they_work_for() -> None:
    strategy = next(one for one in STRATEGIES if one.resource is builtin.NETWORKPOLICYS)
    store = Measured(MemoryStore(), [strategy.resource])
    gate: Gate = Open()
    writer = Writer(store=store, gate=gate, clock=lambda: 0.0, rand=random.Random(1))

    async def write(name: str) -> latency.Account:
        spent = latency.opened()
        obj = {"metadata": {"name": name}, "spec": {}}
        admit = Slow()
        await writer.create(Where(strategy, "default"), obj, manager="m", admit=admit)
        return spent

    one, other = await asyncio.gather(*(asyncio.create_task(write(name)) for name in ("a", "b")))
    for spent in (one, other):
        assert spent.keys() == {"mutating-webhook", "validating-webhook", "etcd"}
        assert spent["mutating-webhook"] > 0.015
        assert spent["validating-webhook"] > 0.005
