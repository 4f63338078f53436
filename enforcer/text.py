"""A ruleset in nft's words, for people and for `nft -f`. Pure."""

from collections.abc import Iterator

from enforcer.diff import is_counted
from enforcer.ruleset import COMMENT, FAMILY, TABLE, Ruleset


def rendered(rules: Ruleset, table: str = TABLE) -> str:
    """All of a table, in one transaction of `nft -f`."""
    lines = [f"table {FAMILY} {table} {{", f'  comment "{COMMENT}"', *_sets(rules)]
    lines += [line for name in _by_use(rules) for line in _chain(rules, name)]
    return "\n".join([*lines, "}", ""])


def _sets(rules: Ruleset) -> Iterator[str]:
    for name, made in sorted(rules.sets.items()):
        yield f"  {'map' if made.verdicts else 'set'} {name} {{"
        yield f"    type {made.type}{' : verdict' if made.verdicts else ''}"
        yield from (f"    {flag}" for flag in made.flags.split("; ") if flag)
        if made.elements and not is_counted(name):
            listed = (f"{k} : {v}" if v else k for k, v in sorted(made.elements.items()))
            yield f"    elements = {{ {', '.join(listed)} }}"
        yield "  }"


def _by_use(rules: Ruleset) -> list[str]:
    """Peers before the classes that jump there, and hooks last, as one would tell it."""
    return sorted(rules.chains, key=lambda name: (bool(rules.chains[name].hook), name))


def _chain(rules: Ruleset, name: str) -> Iterator[str]:
    chain = rules.chains[name]
    yield f"  chain {name} {{"
    if chain.hook:
        yield f"    {chain.hook}"
    yield from (f"    {rule}" for rule in chain.rules)
    yield "  }"
