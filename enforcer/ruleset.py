"""A packet filter as a value: sets, verdict maps and chains of the one table, and how it changes.

The compiler makes one, `diff` compares two, `nft` loads them. Pure. Elements and rules are nft's
own words, made from addresses and numbers only; names are hashes. Nothing that a user wrote gets
in here.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

FAMILY = "inet"
TABLE = "netpol"  # the name; a table that replaces one has a number behind it
SCHEMA = 2
OURS = "owner=netpol-enforcer"  # what the comment of each of our tables begins with
COMMENT = f"{OURS} schema={SCHEMA}"
_DIGEST = 1 << 128


@dataclass(slots=True)
class NftSet:
    """A named set, or a verdict map where `verdicts`: key to `accept`, `drop`, `jump CHAIN`.

    `type` and `flags` are as nft writes them. The elements of a set have empty values.
    """

    type: str
    flags: str = ""
    verdicts: bool = False
    elements: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> tuple[str, str, bool]:
        """What cannot be changed once it exists."""
        return self.type, self.flags, self.verdicts


@dataclass(frozen=True, slots=True)
class Chain:
    """Rules in order. `hook` is the declaration of a base chain."""

    rules: tuple[str, ...]
    hook: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """From one state of the table to another, committed as a whole.

    `sets` and `chains` are new (their elements are in `added`), `rules` replaces those of chains
    that are there. `added` and `removed` are by set, with verdicts; a key that is in both gets
    another verdict.
    """

    sets: Mapping[str, NftSet] = field(default_factory=dict)
    chains: Mapping[str, Chain] = field(default_factory=dict)
    rules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    added: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    removed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    gone_chains: tuple[str, ...] = ()
    gone_sets: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(
            self.sets
            or self.chains
            or self.rules
            or self.added
            or self.removed
            or self.gone_chains
            or self.gone_sets
        )

    @property
    def elements(self) -> int:
        """How many elements it adds or removes."""
        parts = (*self.added.values(), *self.removed.values())
        return sum(map(len, parts))


class Ruleset:
    """The content of the table, by name, with a digest that is kept as it changes.

    `take` tells what has changed since it was called last.
    """

    def __init__(self) -> None:
        self.sets: dict[str, NftSet] = {}
        self.chains: dict[str, Chain] = {}
        self.size = 0  # elements in all sets
        self._sum = 0
        self._before: dict[str, dict[str, str | None]] = {}
        self._sets: dict[str, NftSet | None] = {}
        self._chains: dict[str, Chain | None] = {}

    def digest(self) -> str:
        """Equal for equal rulesets, whatever order they were made in."""
        return f"{self._sum:032x}"

    def add_set(self, name: str, made: NftSet) -> None:
        """`made` without elements; they follow one by one."""
        self._sets.setdefault(name, self.sets.get(name))
        self.sets[name] = made
        self._count(1, name, *map(str, made.kind))

    def add_chain(self, name: str, chain: Chain) -> None:
        self._chains.setdefault(name, self.chains.get(name))
        self.chains[name] = chain
        self._count(1, name, chain.hook, *chain.rules)

    def put(self, name: str, key: str, verdict: str = "") -> None:
        """Have an element in a set."""
        elements = self.sets[name].elements
        old = elements.get(key)
        if old != verdict:
            self._touch(name, key, old)
            elements[key] = verdict
            self.size += 1
            self._count(1, name, key, verdict)

    def drop(self, name: str, key: str) -> None:
        """Have it no longer; it may be absent already."""
        old = self.sets[name].elements.pop(key, None)
        if old is not None:
            self._touch(name, key, old)

    def drop_set(self, name: str) -> None:
        made = self.sets.pop(name)
        self._sets.setdefault(name, made)
        self.size -= len(made.elements)
        for key, verdict in made.elements.items():
            self._count(-1, name, key, verdict)
        self._count(-1, name, *map(str, made.kind))

    def drop_chain(self, name: str) -> None:
        chain = self.chains.pop(name)
        self._chains.setdefault(name, chain)
        self._count(-1, name, chain.hook, *chain.rules)

    def take(self) -> Change:
        """The change since the last call. A set or chain does not change its kind in between."""
        new = {n: self.sets[n] for n, old in self._sets.items() if old is None and n in self.sets}
        gone = {n for n, old in self._sets.items() if old is not None and n not in self.sets}
        added: dict[str, dict[str, str]] = {}
        removed: dict[str, dict[str, str]] = {}
        for name, before in self._before.items():
            now = self.sets[name].elements if name in self.sets else {}
            for key, old in before.items():
                value = now.get(key)
                if value == old:
                    continue
                if old is not None and name not in gone:
                    removed.setdefault(name, {})[key] = old
                if value is not None:
                    added.setdefault(name, {})[key] = value
        change = Change(
            sets=new,
            chains={
                n: self.chains[n]
                for n, old in self._chains.items()
                if old is None and n in self.chains
            },
            added=added,
            removed=removed,
            gone_chains=tuple(
                n for n, old in self._chains.items() if old is not None and n not in self.chains
            ),
            gone_sets=tuple(gone),
        )
        self._before, self._sets, self._chains = {}, {}, {}
        return change

    def _touch(self, name: str, key: str, old: str | None) -> None:
        self._before.setdefault(name, {}).setdefault(key, old)
        if old is not None:
            self.size -= 1
            self._count(-1, name, key, old)

    def _count(self, sign: int, *parts: str) -> None:
        self._sum = (self._sum + sign * _value(parts)) % _DIGEST


def short_hash(content: object) -> str:
    """A name for a value: equal for equal ones.

    128 bits, since what is named is what users write: two that shared a name would share a set.
    """
    return hashlib.sha256(repr(content).encode()).hexdigest()[:32]


def _value(parts: Iterable[str]) -> int:
    # A sum of hashes does not depend on the order, and one element's change costs one hash.
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode(), digest_size=16).digest())
