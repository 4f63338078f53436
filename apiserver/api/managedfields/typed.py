"""Objects seen through their schema: which paths they have, how two differ, how they merge.

The schemas say which lists and maps are one value (atomic) and which are owned item by item, so
that what OpenAPI tells clients is what happens. Pure. The rules are those of
sigs.k8s.io/structured-merge-diff `typed`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apiserver.api import encoding, schemas, status
from apiserver.api.managedfields import fieldpath
from apiserver.api.managedfields.fieldpath import EMPTY, Path, Set

Json = dict[str, Any]
PRESERVE = "x-kubernetes-preserve-unknown-fields"
DEDUCED: Json = {PRESERVE: True}  # maps by key, lists as one value
SCALARS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an object does not fit its schema; `mistyped`: by the type of a value."""

    path: Path
    why: str
    mistyped: bool = False

    def __str__(self) -> str:
        return f"{fieldpath.text(self.path)}: {self.why}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The paths by which one object differs from another."""

    added: Set
    modified: Set
    removed: Set

    def without(self, ignored: Set) -> "Comparison":
        return Comparison(
            self.added.without(ignored),
            self.modified.without(ignored),
            self.removed.without(ignored),
        )


def problems(value: Any, schema: Json, path: Path = ()) -> Iterator[Problem]:
    """What keeps an applied configuration from being merged by this schema."""
    if value is None:
        return
    if isinstance(value, dict):
        if not _takes_map(schema):
            yield _mistyped(path, schema, "a map")
            return
        for key, item in value.items():
            element = fieldpath.named(key)
            inner = _field(schema, key)
            if inner is None:
                yield Problem((*path, element), "field not declared in schema")
            else:
                yield from problems(item, inner, (*path, element))
    elif isinstance(value, list):
        if not _takes_list(schema):
            yield _mistyped(path, schema, "a list")
            return
        yield from _problems_of_items(value, schema, path)
    elif not _takes_scalar(schema, value):
        yield _mistyped(path, schema, fieldpath.valued(value)[2:])


def _mistyped(path: Path, schema: Json, got: str) -> Problem:
    return Problem(path, f"expected {_wanted(schema)}, got {got}", mistyped=True)


def _problems_of_items(value: list[Any], schema: Json, path: Path) -> Iterator[Problem]:
    items = _items(schema)
    if not _granular_list(schema):
        for index, item in enumerate(value):
            yield from problems(item, items, (*path, f"i:{index}"))
        return
    keys, seen = _keys(schema), set()
    for index, item in enumerate(value):
        element = _element(item, keys)
        if element is None:
            yield Problem(
                (*path, f"i:{index}"),
                "associative list with keys has an element that omits all key fields"
                f" {_quoted(keys)}",
            )
            continue
        if element in seen:
            shown = fieldpath.text((element,))
            yield Problem(path, f"duplicate entries for key {shown}")
        seen.add(element)
        yield from problems(item, items, (*path, element))


def check(obj: Json, schema: str, kind: str) -> None:
    """400 with a cause for each field of an applied configuration that cannot be merged."""
    found = list(problems(obj, schemas.DEFINITIONS[schema]))
    if not found:
        return
    meta = obj["metadata"]
    subject = f"{meta.get('namespace', '')}/{meta.get('name', '')}; {obj['apiVersion']}"
    texts = str(found[0]) if len(found) == 1 else "errors:" + "".join(f"\n  {p}" for p in found)
    error = status.bad_request(
        f"failed to create typed patch object ({subject}, Kind={kind}): {texts}"
    )
    error.causes = [
        status.Cause("FieldValueInvalid", problem.why, fieldpath.text(problem.path).lstrip("."))
        for problem in found
    ]
    raise error


def field_set(value: Any, schema: Json, *, containers: bool = False) -> Set:
    """The paths that an applied configuration owns; with `containers`, all that there are."""
    if isinstance(value, dict) and not _atomic_map(schema):
        members, children = set(), {}
        fields = _properties(schema)
        for key, item in value.items():
            element, inner = fieldpath.named(key), _field(schema, key) or DEDUCED
            if containers or _leaf(item, inner) or item in ({}, []) or key not in fields:
                members.add(element)
            if not isinstance(item, schemas.CONTAINERS):
                continue
            if below := field_set(item, inner, containers=containers):
                children[element] = below
        return Set(frozenset(members), children)
    if isinstance(value, list) and _granular_list(schema):
        members, children = set(), {}
        for element, found in _grouped(value, schema).items():
            members.add(element)
            if len(found) > 1:
                continue
            if below := field_set(found[0], _items(schema), containers=containers):
                children[element] = below
        return Set(frozenset(members), children)
    return EMPTY


def everything(value: Any, schema: Json) -> Json:
    """All paths of a value as FieldsV1: what `fieldpath.encode` makes of its `field_set`.

    Every create needs just this, and takes half of its time without the sets in between.
    """
    fields: Json = {}
    if isinstance(value, dict) and not _atomic_map(schema):
        for key in sorted(value):
            item, below = value[key], None
            if isinstance(item, schemas.CONTAINERS):
                below = everything(item, _field(schema, key) or DEDUCED)
            fields[fieldpath.named(key)] = {fieldpath.SELF: {}, **below} if below else {}
    elif isinstance(value, list) and _granular_list(schema):
        return fieldpath.encode(field_set(value, schema, containers=True))
    return fields


def compare(old: Any, new: Any, schema: Json) -> Comparison:
    """How `new` differs from `old`: containers and what is in them alike."""
    if old == {}:
        return Comparison(field_set(new, schema, containers=True), EMPTY, EMPTY)
    added: list[Path] = []
    modified: list[Path] = []
    removed: list[Path] = []
    _compare(old, new, schema, (), _Differences(added.append, modified.append, removed.append))
    return Comparison(*(fieldpath.of(*paths) for paths in (added, modified, removed)))


def merge(live: Any, applied: Any, schema: Json) -> Any:
    """The live object with everything that the applied configuration says.

    Items of keyed lists come in the order of the configuration, those that only the live object
    has where they were.
    """
    if isinstance(applied, dict) and not _atomic_map(schema):
        merged = dict(live) if isinstance(live, dict) else {}
        for key, item in applied.items():
            if item is None:
                merged.pop(key, None)
            else:
                merged[key] = merge(merged.get(key), item, _field(schema, key) or DEDUCED)
        return merged
    if isinstance(applied, list) and isinstance(live, list) and _granular_list(schema):
        return _merge_lists(live, applied, schema)
    return applied


def remove(value: Any, paths: Set, schema: Json) -> Any:
    """The value without the members of a set; a container that this empties stays, empty."""
    if not paths:
        return value
    if isinstance(value, dict) and not _atomic_map(schema):
        return {
            key: remove(item, paths.below(element), _field(schema, key) or DEDUCED)
            for key, item in value.items()
            if (element := fieldpath.named(key)) not in paths.members
        }
    if isinstance(value, list) and _granular_list(schema):
        return [
            remove(item, paths.below(element), _items(schema))
            for item in value
            if (element := _element_of(item, schema)) not in paths.members
        ]
    return value


def with_parents(paths: Set, schema: Json) -> Set:
    """The set with every named field of a struct that has a member below it.

    What one manager removes may leave an empty struct behind, which nobody put there.
    """
    fields = _properties(schema)
    members = set(paths.members)
    children = {}
    for element, child in paths.children.items():
        name = element[2:]
        if element[0] == "f":
            inner = _field(schema, name) or DEDUCED
            if name in fields:
                members.add(element)
        else:
            inner = _items(schema)
        children[element] = with_parents(child, inner)
    return Set(frozenset(members), children)


@dataclass(frozen=True, slots=True)
class _Differences:
    added: Callable[[Path], None]
    modified: Callable[[Path], None]
    removed: Callable[[Path], None]


_ABSENT = object()


def _compare(old: Any, new: Any, schema: Json, path: Path, found: _Differences) -> None:
    whole = _leaf(old, schema) and _leaf(new, schema)
    if old is _ABSENT or new is _ABSENT:
        if path:
            (found.added if old is _ABSENT else found.removed)(path)
        if whole:
            return
    elif whole or type(old) is not type(new):
        if encoding.canonical(old) != encoding.canonical(new):
            _replaced(old, new, schema, path, found)
        return
    if isinstance(old, dict) or isinstance(new, dict):
        _compare_maps(old, new, schema, path, found)
    else:
        _compare_lists(old, new, schema, path, found)


def _replaced(old: Any, new: Any, schema: Json, path: Path, found: _Differences) -> None:
    """A value of one shape where another was: what lay below is gone or new with it."""
    found.modified(path)
    if not _leaf(old, schema):
        _compare(old, _ABSENT, schema, (), _below(path, found.removed))
    if not _leaf(new, schema):
        _compare(_ABSENT, new, schema, (), _below(path, found.added))


def _below(path: Path, note: Callable[[Path], None]) -> _Differences:
    def noted(inner: Path) -> None:
        note((*path, *inner))

    return _Differences(noted, noted, noted)


def _compare_maps(old: Any, new: Any, schema: Json, path: Path, found: _Differences) -> None:
    before = old if isinstance(old, dict) else {}
    after = new if isinstance(new, dict) else {}
    for key in {**before, **after}:
        _compare(
            before.get(key, _ABSENT),
            after.get(key, _ABSENT),
            _field(schema, key) or DEDUCED,
            (*path, fieldpath.named(key)),
            found,
        )


def _compare_lists(old: Any, new: Any, schema: Json, path: Path, found: _Differences) -> None:
    before = _grouped(old if isinstance(old, list) else [], schema)
    after = _grouped(new if isinstance(new, list) else [], schema)
    for element in {**before, **after}:
        was, now = before.get(element, []), after.get(element, [])
        where = (*path, element)
        if len(was) <= 1 and len(now) <= 1:
            _compare(
                was[0] if was else _ABSENT,
                now[0] if now else _ABSENT,
                _items(schema),
                where,
                found,
            )
        elif not was:
            found.added(where)
        elif not now:
            found.removed(where)
        elif encoding.canonical(was) != encoding.canonical(now):
            found.modified(where)


def _merge_lists(live: list[Any], applied: list[Any], schema: Json) -> list[Any]:
    present: dict[str, Any] = {}
    for item in live:
        present.setdefault(_element_of(item, schema), item)
    wanted = {_element_of(item, schema): item for item in applied}
    shared = [element for element in wanted if element in present]
    pending = list(wanted)
    merged = []

    def take(element: str) -> None:
        pending.remove(element)
        merged.append(merge(present.get(element), wanted[element], _items(schema)))

    for item in live:
        element = _element_of(item, schema)
        if element not in wanted:
            merged.append(item)
        elif shared and element == shared[0]:
            for before in pending[: pending.index(element) + 1]:
                take(before)
            del shared[0]
    return merged + [merge(None, wanted[element], _items(schema)) for element in pending]


def _grouped(items: Sequence[Any], schema: Json) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for item in items:
        groups.setdefault(_element_of(item, schema), []).append(item)
    return groups


def _element_of(item: Any, schema: Json) -> str:
    return _element(item, _keys(schema)) or fieldpath.valued(item)


def _element(item: Any, keys: Sequence[str]) -> str | None:
    """How paths name an item of a list; None for one that lacks all of its keys."""
    if not keys:
        return fieldpath.valued(item)
    if not isinstance(item, dict):
        return None
    found = {key: item[key] for key in keys if key in item}
    return fieldpath.keyed(found) if found else None


def _leaf(value: Any, schema: Json) -> bool:
    """Whether a value is owned as one. An absent one has whatever shape the other has."""
    if value is _ABSENT:
        return True
    if isinstance(value, dict):
        return _atomic_map(schema)
    return not (isinstance(value, list) and _granular_list(schema))


def _properties(schema: Json) -> Json:
    found: Json = schemas.resolve(schema).get("properties", {})
    return found


def _field(schema: Json, key: str) -> Json | None:
    """The schema of a field or of a map's value; None where there is no such field."""
    inner = schemas.resolve(schema)
    if key in (fields := inner.get("properties", {})):
        found: Json = fields[key]
        return found
    if isinstance(values := inner.get("additionalProperties"), dict):
        return values
    if fields and not (inner.get(PRESERVE) or schema.get(PRESERVE)):
        return None
    return DEDUCED


def _items(schema: Json) -> Json:
    items: Json = schemas.resolve(schema).get("items", DEDUCED)
    return items


def _list_type(schema: Json) -> str:
    return str(schema.get("x-kubernetes-list-type", "atomic"))


def _granular_list(schema: Json) -> bool:
    return _list_type(schema) in ("set", "map")


def _atomic_map(schema: Json) -> bool:
    return schema.get("x-kubernetes-map-type") == "atomic"


def _keys(schema: Json) -> Sequence[str]:
    keys: Sequence[str] = schema.get("x-kubernetes-list-map-keys", ())
    return keys


def _takes_map(schema: Json) -> bool:
    inner = schemas.resolve(schema)
    return bool(inner.get(PRESERVE) or schema.get(PRESERVE)) or inner.get("type") == "object"


def _takes_list(schema: Json) -> bool:
    inner = schemas.resolve(schema)
    return bool(inner.get(PRESERVE) or schema.get(PRESERVE)) or inner.get("type") == "array"


def _takes_scalar(schema: Json, value: Any) -> bool:
    kinds = _types(schema)
    if not kinds:
        return True
    if isinstance(value, bool):
        return "boolean" in kinds
    return any(isinstance(value, SCALARS.get(kind, ())) for kind in kinds)


def _types(schema: Json) -> list[str]:
    inner = schemas.resolve(schema)
    return [option["type"] for option in inner.get("oneOf", (inner,)) if "type" in option]


def _wanted(schema: Json) -> str:
    names = {"object": "map", "array": "list", "integer": "numeric (int or float)"}
    return " or ".join(names.get(kind, kind) for kind in _types(schema))


def _quoted(keys: Sequence[str]) -> str:
    return "[" + " ".join(f'"{key}"' for key in keys) + "]"
