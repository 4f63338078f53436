"""A packet filter as a value: sets, maps and chains of the one table.

The compiler makes one, `diff` compares two, `nft` loads them. Pure. Elements are nft's own text,
made from addresses and numbers only; names are hashes. Nothing that a user wrote gets in here.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

TABLE = "netpol"
FAMILY = "inet"
SCHEMA = 1
COMMENT = f"owner=netpol-enforcer schema={SCHEMA}"  # for people; libnftables' JSON lacks it
MARK = f"schema_{SCHEMA}"  # an empty chain that says whose table it is, and of which version


@dataclass(frozen=True, slots=True)
class NftSet:
    """A named set: its type, its flags as nft writes them, and its elements."""

    type: str
    flags: str = ""
    elements: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NftMap:
    """A named verdict map: key to verdict (`accept`, `jump CHAIN`)."""

    type: str
    flags: str = ""
    elements: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chain:
    """Rules in order. `hook` is the declaration of a base chain. None: rules not known."""

    rules: tuple[str, ...] | None
    hook: str = ""


@dataclass(frozen=True, slots=True)
class Ruleset:
    """The content of the table, each by its name."""

    sets: Mapping[str, NftSet] = field(default_factory=dict)
    maps: Mapping[str, NftMap] = field(default_factory=dict)
    chains: Mapping[str, Chain] = field(default_factory=dict)

    def digest(self) -> str:
        """Equal for equal rulesets, whatever order they were made in."""
        content = {
            "sets": {n: [s.type, s.flags, sorted(s.elements)] for n, s in self.sets.items()},
            "maps": {
                n: [m.type, m.flags, sorted(m.elements.items())] for n, m in self.maps.items()
            },
            "chains": {n: [c.hook, c.rules] for n, c in self.chains.items()},
        }
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
