"""Read the table back from libnftables' JSON as a `Ruleset`.

Elements come back exactly. Rules do not, because nft prints them in other words: a chain that is
read back has `rules=None`, and the next transaction writes its rules anew. Pure.
"""

from collections.abc import Iterable
from typing import Any

from enforcer.ruleset import MARK, Chain, NftMap, NftSet, Ruleset
from enforcer.skeleton import COUNTED


class ForeignTable(Exception):
    """The table is there, but this version did not write it."""


def read(objects: Iterable[dict[str, Any]]) -> Ruleset:
    """The content of the table. `ForeignTable` where our mark is not in it."""
    sets: dict[str, NftSet] = {}
    maps: dict[str, NftMap] = {}
    chains: dict[str, Chain] = {}
    for entry in objects:
        if found := entry.get("set"):
            elements = [] if found["name"] in COUNTED else found.get("elem", ())
            sets[found["name"]] = NftSet(
                _type(found["type"]), elements=frozenset(map(_element, elements))
            )
        if found := entry.get("map"):
            maps[found["name"]] = NftMap(
                _type(found["type"]),
                elements={_element(key): _verdict(value) for key, value in found.get("elem", ())},
            )
        if found := entry.get("chain"):
            chains[found["name"]] = Chain(rules=None, hook="hook" if "hook" in found else "")
    if MARK not in chains:
        raise ForeignTable(f"the table holds no chain {MARK}; remove it, or give it another name")
    return Ruleset(sets, maps, chains)


def comparable(objects: Iterable[dict[str, Any]]) -> list[str]:
    """A table in a form that is equal for equal tables: no handles, no counts, sorted."""
    lines = []
    for entry in objects:
        for kind, found in entry.items():
            if kind in ("metainfo", "table"):
                continue
            kept = {key: value for key, value in found.items() if key != "handle"}
            if found.get("name") in COUNTED:
                kept.pop("elem", None)
            if isinstance(kept.get("elem"), list):
                kept["elem"] = sorted(map(repr, kept["elem"]))
            if kind == "rule":
                kept["expr"] = [_uncounted(item) for item in kept["expr"]]
                lines.append(f"{kind} {kept['chain']} {kept}")
            else:
                lines.append(f"{kind} {kept['name']} {sorted(kept.items())}")
    # The order of rules within a chain counts; that of everything else does not.
    return sorted(lines, key=lambda line: line.split(" ")[:2])


def _uncounted(expression: Any) -> Any:
    if isinstance(expression, dict) and "counter" in expression:
        return {"counter": None}
    return expression


def _type(text: str | list[str]) -> str:
    return text if isinstance(text, str) else " . ".join(text)


def _element(value: Any) -> str:
    if isinstance(value, dict):
        if "elem" in value:
            return _element(value["elem"]["val"])
        if "concat" in value:
            return " . ".join(map(_element, value["concat"]))
        if "prefix" in value:
            return f"{value['prefix']['addr']}/{value['prefix']['len']}"
        if "range" in value:
            low, high = value["range"]
            return f"{low}-{high}"
    return str(value)


def _verdict(value: Any) -> str:
    if isinstance(value, dict):
        ((verb, target),) = value.items()
        return f"{verb} {target['target']}" if target else str(verb)
    return str(value)
