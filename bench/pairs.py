"""Paired rounds: floor, ours, floor, ours, so that both meet the machine in the same mood."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one case measured: a rate for each round of the floor and of ours, pair by pair."""

    name: str
    unit: str
    target: float
    floor: tuple[float, ...]
    ours: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        return tuple(ours / floor for floor, ours in zip(self.floor, self.ours, strict=True))

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def met(self) -> bool:
        return self.ratio >= self.target


def measure(
    name: str,
    unit: str,
    *,
    target: float,
    rounds: int,
    floor: Callable[[], float],
    ours: Callable[[], float],
) -> Outcome:
    """Take so many pairs of rates. One pair before them warms both up and does not count."""
    pairs = [(floor(), ours()) for _ in range(rounds + 1)][1:]
    return Outcome(name, unit, target, *zip(*pairs, strict=True))
