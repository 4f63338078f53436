"""Objects as bytes: what is stored, and how the resourceVersion gets into it.

An object is stored as JSON without its resourceVersion, which is the store's revision. Reading
splices it in as the first key of `metadata`. Where that is the first object inside the object, as
`encode_stored` and kube-apiserver write it, this is an operation on bytes; else they are parsed.
"""

import json
from collections.abc import Mapping
from typing import Any

import orjson
import yaml

METADATA = b'"metadata":{'
HEAD = ("apiVersion", "kind", "metadata")
VERSION = b'"resourceVersion":'
LIST_END = b"]}\n"


def dumps(obj: Any) -> bytes:
    """Compact JSON. Strings stay UTF-8, integers of any size stay integers."""
    try:
        return orjson.dumps(obj)
    except TypeError:
        # orjson stops at 64 bits.
        return json.dumps(obj, ensure_ascii=False, separators=(",", ":")).encode()


def canonical(obj: Any) -> bytes:
    """The same bytes for equal JSON values, whatever the order of their keys."""
    try:
        return orjson.dumps(obj, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return json.dumps(obj, sort_keys=True).encode()


def pretty(obj: Any) -> bytes:
    """Indented JSON for people."""
    return orjson.dumps(obj, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def yaml_dump(obj: Any) -> bytes:
    dumped = yaml.dump(
        obj, Dumper=yaml.CSafeDumper, sort_keys=True, allow_unicode=True, default_flow_style=False
    )
    return str(dumped).encode()


def encode_stored(obj: Mapping[str, Any]) -> bytes:
    """The bytes to store: apiVersion, kind and metadata first, without a resourceVersion."""
    ordered = {key: obj[key] for key in HEAD if key in obj}
    ordered["metadata"] = {k: v for k, v in obj["metadata"].items() if k != "resourceVersion"}
    return dumps({**ordered, **obj, "metadata": ordered["metadata"]})


def with_revision(stored: bytes, revision: int) -> bytes:
    """The object as clients see it. `ValueError` where it is no object with metadata."""
    inside = stored.find(b"{", 1) + 1
    if stored.endswith(METADATA, 0, inside) and not stored.startswith(VERSION, inside):
        comma = b"" if stored[inside : inside + 1] == b"}" else b","
        return b'%s%s"%d"%s%s' % (stored[:inside], VERSION, revision, comma, stored[inside:])
    obj = orjson.loads(stored)
    if not isinstance(obj, dict) or not isinstance(obj.get("metadata"), dict):
        raise ValueError("not an object with metadata")
    obj["metadata"]["resourceVersion"] = str(revision)
    return dumps(obj)


def at_revision(data: bytes, revision: int) -> bytes:
    """An object as clients see it, at another revision."""
    inside = data.find(b"{", 1) + 1
    if data.endswith(METADATA, 0, inside) and data.startswith(VERSION, inside):
        start = inside + len(VERSION) + 1
        return b"%s%d%s" % (data[:start], revision, data[data.index(b'"', start) :])
    obj = orjson.loads(data)
    obj["metadata"]["resourceVersion"] = str(revision)
    return dumps(obj)


def list_head(
    kind: str, api_version: str, revision: int, token: str, remaining: int | None
) -> bytes:
    """A List up to its items, which are joined bytes already; `LIST_END` comes after them."""
    metadata: dict[str, Any] = {"resourceVersion": str(revision)}
    if token:
        metadata["continue"] = token
    if remaining:
        metadata["remainingItemCount"] = remaining
    head = dumps({"kind": kind, "apiVersion": api_version, "metadata": metadata})
    return head[:-1] + b',"items":['
