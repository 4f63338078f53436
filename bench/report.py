"""The outcomes for people, as the rows of a table, and for machines, as JSON."""

import json
from collections.abc import Sequence
from statistics import median
from typing import Any

from bench.pairs import Of, Outcome, Target

ROW = "{:<46} {:<10} {:>9} {:>9} {:>7} {:>7} {:>7}  {:<10} {}"


def head() -> str:
    return ROW.format("case", "unit", "floor", "ours", "ratio", "min", "max", "target", "").rstrip()


def row(outcome: Outcome) -> str:
    """The medians, the least and greatest ratio, and whether the target is met."""
    ratios = outcome.ratios
    verdict = "" if outcome.target is None else "ok" if outcome.met else "MISSED"
    return ROW.format(
        outcome.name,
        outcome.unit,
        _number(median(outcome.floor)) if outcome.floor else "",
        _number(median(outcome.ours)),
        *(f"{pick(ratios):.2f}" if ratios else "" for pick in (median, min, max)),
        _target(outcome.target, outcome.unit) if outcome.target else "",
        "; ".join(filter(None, (verdict, outcome.note))),
    ).rstrip()


def document(outcomes: Sequence[Outcome], *, quick: bool) -> str:
    """All rounds of all cases."""
    return json.dumps({"quick": quick, "cases": [_case(item) for item in outcomes]}, indent=2)


def _case(outcome: Outcome) -> dict[str, Any]:
    ratios, target = outcome.ratios, outcome.target
    return {
        "name": outcome.name,
        "unit": outcome.unit,
        "floor": median(outcome.floor) if outcome.floor else None,
        "ours": median(outcome.ours),
        "ratio": {"median": median(ratios), "min": min(ratios), "max": max(ratios)}
        if ratios
        else None,
        "target": {"of": target.of, "at most" if target.most else "at least": target.bound}
        if target
        else None,
        "met": outcome.met,
        "note": outcome.note,
        "rounds": {"floor": outcome.floor, "ours": outcome.ours},
    }


def _target(target: Target, unit: str) -> str:
    sign = "<=" if target.most else ">="
    if target.of is Of.OURS:
        return f"{sign} {target.bound:g} {unit}"
    return f"{sign} {target.bound:.2f}"


def _number(value: float) -> str:
    """Three digits at the least."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"
