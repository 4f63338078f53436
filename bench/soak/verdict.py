"""Judge the samples of a soak. Pure.

The first quarter is not looked at: caches fill, and nothing is forgotten yet. From the second to
the last quarter a server that holds on to nothing stays as it is. Memory is compared by medians,
because a single sample may meet a garbage collection or a long answer. Sizes are compared by their
maxima, as files do not shrink; what is kept is what was written within the retention, so a faster
last quarter may keep more in proportion.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

MEMORY = 1.10  # times
SIZE = 1.30  # times


@dataclass(frozen=True, slots=True)
class Sample:
    """After so many writes: the seconds since the start, and MB of memory and of the store.

    `behind` is how many events the slowest watcher had yet to get.
    """

    writes: int
    seconds: float
    memory: float
    peak: float
    sizes: Mapping[str, float]
    behind: int


def grown(samples: Sequence[Sample]) -> list[str]:
    """What has grown too much, in words. `ValueError` for fewer samples than quarters."""
    quarter = len(samples) // 4
    if not quarter:
        raise ValueError("too few samples to judge by")
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    before, after = (median(sample.memory for sample in part) for part in (second, last))
    found = []
    if after > before * MEMORY:
        found.append(f"memory grew from {before:.0f} to {after:.0f} MB")
    faster = max(1.0, _pace(samples, len(samples) - quarter) / _pace(samples, quarter))
    for name in samples[0].sizes:
        before, after = (max(sample.sizes[name] for sample in part) for part in (second, last))
        if after > before * SIZE * faster:
            found.append(f"{name} grew from {before:.0f} to {after:.0f} MB")
    return found


def _pace(samples: Sequence[Sample], start: int) -> float:
    """Writes per second of the quarter that starts with a sample."""
    first, last = samples[start - 1], samples[start + len(samples) // 4 - 1]
    return (last.writes - first.writes) / (last.seconds - first.seconds)
