"""Durations as Go writes them: `300ms`, `1m30s`. Queries and flags carry them."""

import re

SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|ms|s|m|h)")


def parse(text: str) -> float:
    """Seconds. `ValueError` with Go's words for what is no duration."""
    digits = text.removeprefix("-").removeprefix("+")
    if digits == "0":
        return 0.0
    parts = _PART.findall(digits)
    if not digits or "".join(value + unit for value, unit in parts) != digits:
        if re.fullmatch(r"[0-9]*\.?[0-9]+", digits):
            raise ValueError(f'time: missing unit in duration "{text}"')
        raise ValueError(f'time: invalid duration "{text}"')
    seconds = sum(float(value) * SECONDS[unit] for value, unit in parts)
    return -seconds if text.startswith("-") else seconds
