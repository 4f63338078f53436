"""The outcomes for people, as a table, and for machines, as JSON."""

import json
from collections.abc import Sequence
from statistics import median

from bench.pairs import Outcome

ROW = "{:<34} {:<9} {:>10} {:>10} {:>7} {:>7} {:>7} {:>7}  {}"


def table(outcomes: Sequence[Outcome]) -> str:
    """A line for each case: the median rates, and the median, least and greatest ratio."""
    head = ROW.format("case", "unit", "floor", "ours", "ratio", "min", "max", "target", "")
    lines = [
        ROW.format(
            outcome.name,
            outcome.unit,
            f"{median(outcome.floor):,.0f}",
            f"{median(outcome.ours):,.0f}",
            f"{outcome.ratio:.2f}",
            f"{min(outcome.ratios):.2f}",
            f"{max(outcome.ratios):.2f}",
            f"{outcome.target:.2f}",
            "ok" if outcome.met else "under its target",
        )
        for outcome in outcomes
    ]
    return "\n".join([head, *lines])


def document(outcomes: Sequence[Outcome], *, quick: bool) -> str:
    """All rounds of all cases."""
    return json.dumps(
        {
            "quick": quick,
            "cases": [
                {
                    "name": outcome.name,
                    "unit": outcome.unit,
                    "floor": median(outcome.floor),
                    "ours": median(outcome.ours),
                    "ratio": {
                        "median": outcome.ratio,
                        "min": min(outcome.ratios),
                        "max": max(outcome.ratios),
                    },
                    "target": outcome.target,
                    "met": outcome.met,
                    "rounds": {"floor": outcome.floor, "ours": outcome.ours},
                }
                for outcome in outcomes
            ],
        },
        indent=2,
    )
