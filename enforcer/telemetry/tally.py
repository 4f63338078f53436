"""A histogram in plain numbers: `status` counts into it, `metrics` publishes it. Pure."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

# Seconds, by which stages and time-to-enforce are told apart: from a commit of one element, which
# takes less than a millisecond, to the longest wait between two attempts.
SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip


class Tally:
    """Values in seconds, counted by the first bound that they do not exceed."""

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.count = 0
        self.total = 0.0
        self._buckets = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self._buckets[bisect_left(self.bounds, value)] += 1
        self.total += value
        self.count += 1

    def cumulated(self) -> list[tuple[str, float]]:
        """The buckets as an exposition has them: upper bound, and how many values are below."""
        bounds = [*map(str, self.bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._buckets)), strict=True))
