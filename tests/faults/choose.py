"""What a client does next: a seeded mix over few keys, with conflicts on purpose. Pure."""

import random
from dataclasses import dataclass

from tests.faults.history import COLOURS, Kind

KEYS = tuple(f"p{number:02}" for number in range(40))
MIX = {Kind.CREATE: 22, Kind.UPDATE: 38, Kind.DELETE: 14, Kind.GET: 20, Kind.LIST: 6}
BLIND = 0.1  # of the writes care not for what is there: many of them are refused
UNCONDITIONAL = 0.15  # of the updates and deletes name no revision
STALE = 0.08  # of them name one that was replaced


@dataclass(frozen=True, slots=True)
class Choice:
    """`blind`: also where it cannot succeed. `conditional`: swaps a revision, maybe a `stale`."""

    kind: Kind
    key: str
    colour: str
    blind: bool
    conditional: bool
    stale: bool


def choose(rand: random.Random) -> Choice:
    """The next choice; always the same number of draws, so that runs with one seed agree."""
    kind = rand.choices(tuple(MIX), weights=tuple(MIX.values()))[0]
    return Choice(
        kind=kind,
        key=rand.choice(KEYS),
        colour=rand.choice(COLOURS),
        blind=rand.random() < BLIND,
        conditional=rand.random() >= UNCONDITIONAL,
        stale=rand.random() < STALE,
    )


def fitting(choice: Choice, known: int | None) -> Kind:
    """The kind that can succeed, by the revision known of the key: 0 for none there.

    None: the last answer left that open, and a look comes first.
    """
    if choice.blind or choice.kind is Kind.LIST:
        return choice.kind
    if known is None:
        return Kind.GET
    if choice.kind is Kind.CREATE and known:
        return Kind.UPDATE
    if choice.kind in (Kind.UPDATE, Kind.DELETE) and not known:
        return Kind.CREATE
    return choice.kind
