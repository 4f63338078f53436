"""A histogram in plain numbers, for what is counted on hot paths. `http.metrics` publishes it."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client.utils import floatToGoString

# Upstream's buckets for requests, and for what the store is asked.
SECONDS = (
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3,
    4, 5, 6, 8, 10, 15, 20, 30, 45, 60,
)  # fmt: skip


@dataclass(slots=True)
class Tally:
    """A histogram of one series: values counted by the first bound that they do not exceed."""

    bounds: Sequence[float]
    count: int = 0
    total: float = 0
    buckets: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.buckets = [0] * (len(self.bounds) + 1)

    def add(self, value: float, *, times: int = 1) -> None:
        self.buckets[bisect_left(self.bounds, value)] += times
        self.total += value * times
        self.count += times

    def cumulated(self) -> list[tuple[str, float]]:
        """The buckets as the exposition has them."""
        bounds = [*map(floatToGoString, self.bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.buckets)), strict=True))
