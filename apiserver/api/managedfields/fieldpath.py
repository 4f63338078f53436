"""Sets of field paths, as `metadata.managedFields` writes them down.

A path is a tuple of elements in the spelling of FieldsV1: `f:NAME` a field or map key, `k:{…}` an
item of a keyed list, `v:…` an item of a set, `i:N` an index. Pure values; the algebra is that of
sigs.k8s.io/structured-merge-diff `fieldpath/set.go`.
"""

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

Path = tuple[str, ...]
KINDS = "fkvi"  # the order in which FieldsV1 lists them
SELF = "."  # in FieldsV1: the path so far is itself a member


class Set(NamedTuple):
    """Paths that share a prefix: `members` end here, `children` go on below an element."""

    members: frozenset[str] = frozenset()
    children: Mapping[str, "Set"] = MappingProxyType({})

    def __bool__(self) -> bool:
        return bool(self.members or self.children)

    def __or__(self, other: "Set") -> "Set":
        if not other or not self:
            return self or other
        children = dict(self.children)
        for element, child in other.children.items():
            children[element] = children[element] | child if element in children else child
        return Set(self.members | other.members, children)

    def __and__(self, other: "Set") -> "Set":
        shared = self.children.keys() & other.children.keys()
        return Set(
            self.members & other.members,
            _kept({e: self.children[e] & other.children[e] for e in shared}),
        )

    def __sub__(self, other: "Set") -> "Set":
        """Without the members of the other; what lies below one of them stays."""
        children = {
            element: child - other.children[element] if element in other.children else child
            for element, child in self.children.items()
        }
        return Set(self.members - other.members, _kept(children))

    def without(self, other: "Set") -> "Set":
        """Without the members of the other and all that lies below them."""
        children = {
            element: child.without(other.children[element]) if element in other.children else child
            for element, child in self.children.items()
            if element not in other.members
        }
        return Set(self.members - other.members, _kept(children))

    def below(self, element: str) -> "Set":
        return self.children.get(element, EMPTY)

    def paths(self) -> Iterator[Path]:
        """All members, each before what lies below it."""
        for element in _sorted(self.members | self.children.keys()):
            if element in self.members:
                yield (element,)
            for path in self.below(element).paths():
                yield (element, *path)


EMPTY = Set()


def of(*paths: Path) -> Set:
    """The set of some paths."""
    members = frozenset(path[0] for path in paths if len(path) == 1)
    below: dict[str, list[Path]] = {}
    for path in paths:
        if len(path) > 1:
            below.setdefault(path[0], []).append(path[1:])
    return Set(members, {element: of(*rest) for element, rest in below.items()})


def encode(paths: Set) -> dict[str, Any]:
    """FieldsV1: a nested object of elements."""
    fields: dict[str, Any] = {}
    if not paths.children:
        return {element: {} for element in _sorted(paths.members)}
    for element in _sorted(paths.members | paths.children.keys()):
        inner = encode(paths.below(element))
        if inner and element in paths.members:
            inner = {SELF: {}, **inner}
        fields[element] = inner
    return fields


def decode(fields: Any) -> Set:
    """The set that FieldsV1 stands for. `ValueError` where it is none."""
    if not isinstance(fields, dict):
        raise ValueError("FieldsV1 is no object")
    members, children = set(), {}
    for element, inner in fields.items():
        if element == SELF:
            continue
        _check(element)
        child = decode(inner)
        if not inner or SELF in inner:
            members.add(element)
        if child:
            children[element] = child
    return Set(frozenset(members), children)


def named(name: str) -> str:
    return f"f:{name}"


def keyed(keys: Mapping[str, Any]) -> str:
    """The element of an item in a keyed list."""
    return "k:" + _compact(dict(sorted(keys.items())))


def valued(value: Any) -> str:
    """The element of an item in a set."""
    return "v:" + _compact(value)


def text(path: Path) -> str:
    """For people: `.spec.ports[name="web"].port`."""
    return "".join(map(_text, path))


def _text(element: str) -> str:
    kind, _, rest = element.partition(":")
    if kind == "f":
        return f".{rest}"
    if kind == "v":
        return f"[={rest}]"
    if kind == "i":
        return f"[{rest}]"
    keys = ",".join(f"{key}={_compact(value)}" for key, value in json.loads(rest).items())
    return f"[{keys}]"


def _check(element: str) -> None:
    kind, colon, rest = element.partition(":")
    if not colon or kind not in KINDS or len(kind) != 1:
        raise ValueError(f"{element!r} is no path element")
    if kind != "f":
        parsed = json.loads(rest)
        if (kind == "k") is not isinstance(parsed, dict):
            raise ValueError(f"{element!r} is no path element")


def _sorted(elements: frozenset[str]) -> list[str]:
    ordered = sorted(elements)
    if not ordered or ordered[0][0] == ordered[-1][0]:
        return ordered  # of one kind, as nearly always
    return sorted(ordered, key=lambda element: KINDS.index(element[0]))


def _kept(children: dict[str, Set]) -> dict[str, Set]:
    return {element: child for element, child in children.items() if child}


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
