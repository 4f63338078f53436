"""Paired rounds: ours, floor, ours, floor, so that both meet the machine in the same mood."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from statistics import median


class Of(StrEnum):
    """What a target bounds: the ratio of ours to the floor, or ours alone, in its unit."""

    RATIO = "ratio"
    OURS = "ours"


@dataclass(frozen=True, slots=True)
class Target:
    """A bound for a median: the least that it may be, or where `most` is set the greatest."""

    bound: float
    most: bool = False
    of: Of = Of.RATIO


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one case measured: a number for each round of ours and, if it has one, of the floor.

    A case without a target is told and never judged.
    """

    name: str
    unit: str
    ours: tuple[float, ...]
    floor: tuple[float, ...] = ()
    target: Target | None = None
    note: str = ""

    @property
    def ratios(self) -> tuple[float, ...]:
        """Ours by the floor, pair by pair; none without a floor."""
        if not self.floor:
            return ()
        return tuple(ours / floor for ours, floor in zip(self.ours, self.floor, strict=True))

    @property
    def met(self) -> bool:
        if self.target is None:
            return True
        found = median(self.ratios if self.target.of is Of.RATIO else self.ours)
        return found <= self.target.bound if self.target.most else found >= self.target.bound


def measure(
    name: str,
    unit: str,
    *,
    target: Target | None,
    rounds: int,
    ours: Callable[[], float],
    floor: Callable[[], float],
) -> Outcome:
    """Take so many pairs of numbers. One pair before them warms both up and does not count.

    Ours goes first, so that a floor may do what ours has just done, in groups of the same size.
    """
    pairs = [(ours(), floor()) for _ in range(rounds + 1)][1:]
    mine, theirs = zip(*pairs, strict=True)
    return Outcome(name, unit, mine, theirs, target)
