"""A generated name that is taken is drawn again, and each that is drawn is admitted."""

import random
from typing import Any

from apiserver.api import builtin
from apiserver.registry.strategies import STRATEGIES
from apiserver.registry.writer import Where, Writer
from storage.memory import MemoryStore


class Open:
    """A gate that lets everything pass."""

    async def admit(self, *ignored: Any, **options: Any) -> None:
        return None


class Noting:
    """Lets all pass, and knows the names."""

    def __init__(self) -> None:
        self.changed: list[str] = []
        self.judged: list[str] = []

    async def mutate(self, operation: str, name: str, obj: Any, old: Any) -> Any:
        self.changed.append(name)
        return obj

    async def validate(self, operation: str, name: str, obj: Any, old: Any) -> None:
        assert obj["metadata"]["name"] == name
        self.judged.append(name)


class Repeating(random.Random):
    """Draws the same name at first."""

    def __init__(self, times: int) -> None:
        super().__init__(1)
        self._times = times

    def choices(self, population: Any, *args: Any, **options: Any) -> Any:
        self._times -= 1
        if self._times >= 0:
            return [population[0]] * options["k"]
        return super().choices(population, *args, **options)


async def test_each_name_is_judged_and_changes_are_asked_for_once() -> None:
    strategy = next(one for one in STRATEGIES if one.resource is builtin.NETWORKPOLICYS)
    writer = Writer(store=MemoryStore(), gate=Open(), clock=lambda: 0.0, rand=Repeating(3))
    where, made = Where(strategy, "default"), []
    for _ in range(2):
        admit = Noting()
        obj = {"metadata": {"generateName": "a-"}, "spec": {}}
        made.append((await writer.create(where, obj, manager="m", admit=admit), admit))
    (_, first), (_, second) = made
    assert len(first.judged) == 1
    assert len(second.changed) == 1
    assert len(second.judged) == 3
    assert second.judged[:2] == first.judged * 2
    assert second.judged[2] not in first.judged
