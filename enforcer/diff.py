"""What has to be done to the table, as nft text: a change is a value before it is an act.

New objects come first, then elements, then what nobody refers to any more goes. Everything is one
transaction, so packets see the old state or the new one. Base chains are never touched but for
their rules. Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from enforcer.ruleset import COMMENT, FAMILY, TABLE, Chain, NftMap, NftSet, Ruleset
from enforcer.skeleton import COUNTED

_T = f"{FAMILY} {TABLE}"


@dataclass(frozen=True, slots=True)
class Transaction:
    """Commands of one commit; `elements` counts the elements that it adds or removes."""

    commands: tuple[str, ...]
    elements: int

    def __bool__(self) -> bool:
        return bool(self.commands)

    def text(self) -> str:
        return "".join(command + "\n" for command in self.commands)


def diff(have: Ruleset | None, want: Ruleset) -> Transaction:
    """The way from one state of the table to another; None: there is no table yet."""
    commands: list[str] = []
    table: list[str] = []
    counted = 0
    if have is None:
        table.append(f'add table {_T} {{ comment "{COMMENT}"; }}')
        have = Ruleset()
    for name in want.sets.keys() - have.sets.keys():
        item = want.sets[name]
        commands.append(f"add set {_T} {name} {{ type {item.type}; {_flags(item)}}}")
    for name in want.maps.keys() - have.maps.keys():
        made = want.maps[name]
        commands.append(f"add map {_T} {name} {{ type {made.type} : verdict; {_flags(made)}}}")
    for name in want.chains.keys() - have.chains.keys():
        hook = want.chains[name].hook
        commands.append(f"add chain {_T} {name}" + (f" {{ {hook} }}" if hook else ""))
    commands.sort()
    for name, chain in want.chains.items():
        commands += _rules(name, have.chains.get(name), chain)
    for name, item in want.sets.items():
        old: frozenset[str] = have.sets[name].elements if name in have.sets else frozenset()
        gone, new = sorted(old - item.elements), sorted(item.elements - old)
        if name not in COUNTED:
            commands += _elements("delete", name, gone) + _elements("add", name, new)
            counted += len(gone) + len(new)
    for name, made in want.maps.items():
        before = have.maps[name].elements if name in have.maps else {}
        # A key that changes its verdict is deleted and added: one transaction, so never absent.
        left = sorted(key for key, value in before.items() if made.elements.get(key) != value)
        put = sorted(
            f"{key} : {value}" for key, value in made.elements.items() if before.get(key) != value
        )
        commands += _elements("delete", name, left) + _elements("add", name, put)
        counted += len(left) + len(put)
    return Transaction((*table, *commands, *_removals(have, want)), counted)


def _flags(item: NftSet | NftMap) -> str:
    return f"{item.flags}; " if item.flags else ""


def _rules(name: str, have: Chain | None, want: Chain) -> list[str]:
    if have is not None and have.rules == want.rules:
        return []
    flush = [f"flush chain {_T} {name}"] if have is not None else []
    return flush + [f"add rule {_T} {name} {rule}" for rule in want.rules or ()]


def _elements(verb: str, name: str, elements: Iterable[str]) -> list[str]:
    listed = ", ".join(elements)
    return [f"{verb} element {_T} {name} {{ {listed} }}"] if listed else []


def _removals(have: Ruleset, want: Ruleset) -> list[str]:
    """Users before what they use: classes, their maps, peer chains, peer sets."""
    chains = [name for name in have.chains if name not in want.chains]
    maps = [name for name in have.maps if name not in want.maps]
    sets = [name for name in have.sets if name not in want.sets]
    return [
        *(f"flush chain {_T} {name}" for name in chains),
        *(f"flush map {_T} {name}" for name in maps),
        *(f"delete map {_T} {name}" for name in maps),
        *(f"delete chain {_T} {name}" for name in chains),
        *(f"delete set {_T} {name}" for name in sets),
    ]
