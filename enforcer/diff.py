"""From what the kernel holds to what it should hold. Pure.

For the start and for repairs; in between the compiler tells what changes. Elements are compared
one by one, rules as the kernel shows them. What has the right name but another type cannot be
mended in place: then the caller makes a new table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from enforcer.nft.expressions import Expression, compiled
from enforcer.ruleset import Change, NftSet, Ruleset
from enforcer.skeleton import COUNTED

Rules = tuple[tuple[Expression, ...], ...]


class Incompatible(Exception):
    """The table was made by another version, or changed so that it cannot be mended in place."""


@dataclass(frozen=True, slots=True)
class Held:
    """A table as a dump shows it. `hooks` are the base chains, with their declarations."""

    sets: Mapping[str, NftSet] = field(default_factory=dict)
    chains: Mapping[str, Rules] = field(default_factory=dict)
    hooks: Mapping[str, str] = field(default_factory=dict)


def diff(have: Held, want: Ruleset) -> Change:
    """The way from a table to a ruleset. `Incompatible`."""
    new_sets: dict[str, NftSet] = {}
    added: dict[str, dict[str, str]] = {}
    removed: dict[str, dict[str, str]] = {}
    for name, made in want.sets.items():
        held = have.sets.get(name)
        if held is None:
            new_sets[name] = made
            held = NftSet(*made.kind)
        elif held.kind != made.kind:
            raise Incompatible(f"set {name} is {held.kind} and should be {made.kind}")
        if is_counted(name):
            continue
        more = {k: v for k, v in made.elements.items() if held.elements.get(k) != v}
        less = {k: v for k, v in held.elements.items() if made.elements.get(k) != v}
        if more:
            added[name] = more
        if less:
            removed[name] = less
    new_chains = {n: c for n, c in want.chains.items() if n not in have.chains}
    rules = {}
    for name, chain in want.chains.items():
        hook = have.hooks.get(name, "")
        if name in have.chains and hook != chain.hook:
            raise Incompatible(f"chain {name} is {hook!r} and should be {chain.hook!r}")
        if name in have.chains and have.chains[name] != tuple(map(compiled, chain.rules)):
            rules[name] = chain.rules
    return Change(
        sets=new_sets,
        chains=new_chains,
        rules=rules,
        added=added,
        removed=removed,
        gone_chains=tuple(name for name in have.chains if name not in want.chains),
        gone_sets=tuple(name for name in have.sets if name not in want.sets),
    )


def is_counted(name: str) -> bool:
    """Whether packets fill a set, and not we."""
    return name.startswith(COUNTED)


def differences(change: Change) -> list[str]:
    """What a change says is wrong with a table, for people: a line each."""
    return [
        *(f"set {name} is missing" for name in change.sets),
        *(f"chain {name} is missing" for name in change.chains),
        *(f"chain {name} has other rules" for name in change.rules),
        *(
            f"{name}: {key}{' : ' if verdict else ''}{verdict} is missing"
            for name, elements in change.added.items()
            for key, verdict in elements.items()
        ),
        *(
            f"{name}: {key}{' : ' if verdict else ''}{verdict} should not be there"
            for name, elements in change.removed.items()
            for key, verdict in elements.items()
        ),
        *(f"chain {name} should not be there" for name in change.gone_chains),
        *(f"set {name} should not be there" for name in change.gone_sets),
    ]
