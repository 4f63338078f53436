"""Durations as Go writes them: `300ms`, `1m30s`. Queries and flags carry them."""

import re

SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
LONGEST = 64  # characters; all that Go can hold is shorter
# What has matched is not given up again: else many digits without a unit take for ever.
_PART = re.compile(r"([0-9]++\.?+[0-9]*+|\.[0-9]++)(ns|us|µs|ms|s|m|h)")


def render(seconds: float) -> str:
    """As Go's `Duration.String` has it: `1m30.5s`, `450.6649ms`."""
    nanoseconds = round(abs(seconds) * 1e9)
    sign = "-" if seconds < 0 and nanoseconds else ""
    if nanoseconds >= 1_000_000_000:
        minutes, rest = divmod(nanoseconds, 60_000_000_000)
        hours, minutes = divmod(minutes, 60)
        whole = (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "")
        return f"{sign}{whole}{_decimal(rest, 9)}s"
    for unit, digits in (("ms", 6), ("µs", 3), ("ns", 0)):
        if nanoseconds >= 10**digits:
            return f"{sign}{_decimal(nanoseconds, digits)}{unit}"
    return "0s"


def _decimal(number: int, digits: int) -> str:
    """A number of so many decimals, without those that say nothing."""
    whole, rest = divmod(number, 10**digits)
    return f"{whole}.{rest:0{digits}d}".rstrip("0").rstrip(".") if rest else str(whole)


def parse(text: str) -> float:
    """Seconds. `ValueError` with Go's words for what is no duration."""
    digits = text.removeprefix("-").removeprefix("+")
    if digits == "0":
        return 0.0
    if len(digits) > LONGEST:
        raise ValueError(f'time: invalid duration "{text[:LONGEST]}..."')
    parts = _PART.findall(digits)
    if not digits or "".join(value + unit for value, unit in parts) != digits:
        if re.fullmatch(r"[0-9]*\.?[0-9]+", digits):
            raise ValueError(f'time: missing unit in duration "{text}"')
        raise ValueError(f'time: invalid duration "{text}"')
    seconds = sum(float(value) * SECONDS[unit] for value, unit in parts)
    return -seconds if text.startswith("-") else seconds
