"""Decode a request body strictly: duplicates and unknown fields are found, not swallowed.

JSON and YAML end as the same values. Sizes and depths are bounded, because the bytes are anyone's.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import orjson
import yaml

from apiserver.api import schemas, status
from apiserver.api.schemas import CONTAINERS

DEPTH = 100  # levels of nesting; orjson stops at 1024, Python's stack a little later
NODES = 1_000_000  # values that a YAML document may hold once its aliases are followed
YAML_LIMIT = (
    256 << 10
)  # bytes, as of all annotations together: what is applied by them is no larger
SHALLOW = 4 << 10  # bytes of YAML that cannot be so deep as to harm
SPACE = b" \t\n\r"
PRESERVE = "x-kubernetes-preserve-unknown-fields"


def decode_json(body: bytes) -> tuple[Any, list[str]]:
    """The value, and `duplicate field "…"` for each key that stands twice. 400 for bad JSON."""
    if not body.strip():
        raise _unreadable("unexpected end of JSON input", body)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _unreadable(str(error), body) from error
    if body.count(b"{") + body.count(b"[") > DEPTH:
        _check_depth(value)
    return value, [] if _as_written(body, value) else _duplicates(body)


def decode_yaml(body: bytes) -> tuple[Any, list[str]]:
    """The same for YAML; dates stay text, as sigs.k8s.io/yaml reads them. 413 if it is large.

    What is JSON, as clients send it for an apply, is read as that: it takes a hundredth of the
    time, and is not bounded here.
    """
    if (found := _json(body)) is not None:
        return found
    if len(body) > YAML_LIMIT:
        raise status.entity_too_large(f"limit of YAML is {YAML_LIMIT}, JSON may be larger")
    try:
        text = body.decode("utf-8")
        if len(body) > SHALLOW:
            _check_levels(text)
        loader = _Loader(text)
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
        if _size(value, {}) > NODES:
            raise ValueError(f"aliases make more than {NODES} values of it")
        orjson.dumps(value)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, TypeError, ValueError) as error:
        raise status.bad_request(
            f"error decoding YAML: error converting YAML to JSON: yaml: {error}"
        ) from error
    if value is None:
        raise _unreadable("unexpected end of YAML input", body)
    _check_depth(value)
    return value, loader.duplicates


def _json(body: bytes) -> tuple[Any, list[str]] | None:
    """None for what is no JSON object, and for one whose duplicates YAML has words for."""
    if not body.lstrip(SPACE).startswith(b"{"):
        return None
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    _check_depth(value)
    if not _as_written(body, value) and (doubled := _duplicates(body)):
        return (value, doubled) if len(body) > YAML_LIMIT else None
    return value, []


def _check_levels(text: str) -> None:
    """400 for YAML of too many levels, before it is composed: the C library would take a level of
    its stack for each, and overflow that."""
    level = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            level += 1
            if level > DEPTH:
                raise _too_deep()
        elif isinstance(event, yaml.CollectionEndEvent):
            level -= 1


def unknown_fields(obj: Any, schema: str) -> list[str]:
    """`unknown field "spec.bogus"` for each field that the schema does not have."""
    if _knows(obj, schemas.DEFINITIONS[schema]):
        return []
    found: list[str] = []
    _walk(obj, schemas.DEFINITIONS[schema], "", found, None)
    return [f"unknown field {json.dumps(path, ensure_ascii=False)}" for path in found]


def _knows(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a schema has all fields of a value; without a word on which it has not."""
    preserve = schema.get(PRESERVE, False)
    schema = schemas.resolve(schema)
    if isinstance(value, list):
        items = schema.get("items", schema if preserve else {})
        return all(_knows(item, items) for item in value)
    properties = schema.get("properties")
    if properties is None or not isinstance(value, dict):
        return True
    preserve = schema.get(PRESERVE, False)
    for key, item in value.items():
        if key in properties:
            if isinstance(item, CONTAINERS) and not _knows(item, properties[key]):
                return False
        elif not preserve:
            return False
    return True


def without_unknown(obj: Any, schema: str, *, keep: Collection[str]) -> dict[str, Any]:
    """A copy without unknown fields, but for those below the top-level fields in `keep`."""
    result = _walk(obj, schemas.DEFINITIONS[schema], "", [], frozenset(keep))
    return {**result, **{key: obj[key] for key in keep if key in obj}}


def _walk(
    value: Any, schema: dict[str, Any], path: str, found: list[str], keep: frozenset[str] | None
) -> Any:
    """Collect unknown fields, and give the value without them."""
    preserve = schema.get(PRESERVE, False)
    schema = schemas.resolve(schema)
    if isinstance(value, list):
        items = schema.get("items", schema if preserve else {})
        return [
            _walk(item, items, f"{path}[{index}]", found, keep) for index, item in enumerate(value)
        ]
    if not isinstance(value, Mapping):
        return value
    properties = schema.get("properties")
    if properties is None or not isinstance(value, dict):
        return value
    preserve = schema.get(PRESERVE, False)
    result = {}
    for key, item in value.items():
        where = f"{path}.{key}" if path else key
        if key in properties:
            result[key] = _walk(item, properties[key], where, found, keep)
        elif preserve:
            result[key] = item
        else:
            found.append(where)
    return result


def _unreadable(why: str, body: bytes) -> status.StatusError:
    shown = body[:128].hex(" ") if body else "<empty>"
    return status.bad_request(
        "the object provided is unrecognized (must be valid JSON or YAML with a kind): couldn't get"
        f" version/kind; json parse error: {why} ({shown})"
    )


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEPTH:
            raise _too_deep()
        level = [
            child
            for item in level
            if isinstance(item, CONTAINERS)
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, CONTAINERS)
        ]


def _too_deep() -> status.StatusError:
    return status.bad_request(f"the object is nested more than {DEPTH} levels deep")


def _as_written(body: bytes, value: Any) -> bool:
    """Whether a body is, but for white space, what its value is written as: then no key of it was
    dropped. Most bodies are; only the others need a second, slower reading."""
    return body.translate(None, SPACE) == orjson.dumps(value).translate(None, SPACE)


class _Pairs(dict[str, Any]):
    """An object with the keys that stood in it more than once."""

    doubled: tuple[str, ...] = ()


def _duplicates(body: bytes) -> list[str]:
    def build(pairs: list[tuple[str, Any]]) -> _Pairs:
        made = _Pairs(pairs)
        if len(made) != len(pairs):
            counts = Counter(key for key, _ in pairs)
            made.doubled = tuple(key for key, count in counts.items() if count > 1)
        return made

    found: list[str] = []
    _collect(json.loads(body, object_pairs_hook=build), "", found)
    return [f"duplicate field {json.dumps(path, ensure_ascii=False)}" for path in found]


def _collect(value: Any, path: str, found: list[str]) -> None:
    if isinstance(value, _Pairs):
        found += [f"{path}.{key}" if path else key for key in value.doubled]
        for key, item in value.items():
            _collect(item, f"{path}.{key}" if path else key, found)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _collect(item, f"{path}[{index}]", found)


def _size(value: Any, known: dict[int, int]) -> int:
    """How many values a tree is when every alias is followed; each node is counted once."""
    if not isinstance(value, CONTAINERS):
        return 1
    if id(value) not in known:
        known[id(value)] = NODES + 1  # a cycle never ends
        children = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(child, known) for child in children)
    return known[id(value)]


class _Loader(yaml.CSafeLoader):
    """CSafeLoader that notes duplicate keys and leaves dates as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.duplicates: list[str] = []

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in lines:
                    line = key.start_mark.line + 1
                    self.duplicates.append(f'line {line}: key "{key.value}" already set in map')
                lines[key.value] = 1
        built = super().construct_mapping(node, deep=True)
        return {_key(key): value for key, value in built.items()}


def _key(key: Any) -> str:
    """JSON has text keys only; sigs.k8s.io/yaml writes others out as text too."""
    if isinstance(key, bool):
        return str(key).lower()
    if key is None:
        return "null"
    return str(key)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not re.search("timestamp", tag)]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
