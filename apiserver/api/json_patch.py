"""JSON Patch, RFC 6902, as Kubernetes takes it: a negative index counts from the end of a list.

Every failure names the operation's index, its path and the reason, in the Status and in its cause.
"""

import copy
from collections.abc import Callable
from typing import Any

from apiserver.api import encoding, status
from apiserver.api.metadata import BODY_LIMIT
from apiserver.api.status import Cause

OPERATIONS = 10_000  # in one patch, as upstream
COPIED = BODY_LIMIT  # bytes that the copies of one patch may add, as upstream

Json = dict[str, Any]


class _Failed(Exception):
    """An operation that cannot be done."""


class _TestFailed(_Failed):
    """A test that found another value."""


def json_patch(doc: Any, operations: Any) -> Any:
    """The patched document; the given one is left alone. 400, 413, or 422 with the operation."""
    if not isinstance(operations, list) or not all(isinstance(op, dict) for op in operations):
        kind = "object" if isinstance(operations, dict) else "value"
        raise status.bad_request(
            f"error decoding patch: json: cannot unmarshal {kind} into Go value of type"
            " []handlers.jsonPatchOp"
        )
    if len(operations) > OPERATIONS:
        raise status.entity_too_large(
            f"The allowed maximum operations in a JSON patch is {OPERATIONS}, got {len(operations)}"
        )
    doc = copy.deepcopy(doc)
    copied = 0
    for index, operation in enumerate(operations):
        try:
            if operation.get("op") == "copy":
                copied += len(encoding.dumps(_get(doc, _pointer(operation, "from"))))
                if copied > COPIED:
                    raise status.entity_too_large(f"copies may add {COPIED} bytes at most")
            doc = _apply(doc, operation)
        except _Failed as failure:
            raise _refused(index, operation, failure) from None
    return doc


def _apply(doc: Any, operation: Json) -> Any:
    name = operation.get("op")
    act = _OPERATIONS.get(name) if isinstance(name, str) else None
    if act is None:
        raise _Failed(f"unknown operation {name!r}; use {', '.join(_OPERATIONS)}")
    return act(doc, operation)


def _add(doc: Any, operation: Json) -> Any:
    return _put(doc, _pointer(operation), copy.deepcopy(_value(operation)))


def _remove(doc: Any, operation: Json) -> Any:
    return _take(doc, _pointer(operation))


def _replace(doc: Any, operation: Json) -> Any:
    path, value = _pointer(operation), copy.deepcopy(_value(operation))
    if not path:
        return value
    parent = _get(doc, path[:-1])
    parent[_place(parent, path[-1])] = value
    return doc


def _move(doc: Any, operation: Json) -> Any:
    source, target = _pointer(operation, "from"), _pointer(operation)
    if target[: len(source)] == source and len(target) > len(source):
        raise _Failed("a value cannot be moved into itself")
    value = _get(doc, source)
    return _put(_take(doc, source), target, value)


def _copy(doc: Any, operation: Json) -> Any:
    value = copy.deepcopy(_get(doc, _pointer(operation, "from")))
    return _put(doc, _pointer(operation), value)


def _test(doc: Any, operation: Json) -> Any:
    wanted = operation.get("value")
    try:
        found = _get(doc, _pointer(operation))
    except _Failed:
        if wanted is not None:
            raise
        return doc  # a missing value equals null, as upstream has it
    if encoding.canonical(found) != encoding.canonical(wanted):
        raise _TestFailed("the test failed: the value is another")
    return doc


_OPERATIONS: dict[str, Callable[[Any, Json], Any]] = {
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "move": _move,
    "copy": _copy,
    "test": _test,
}


def _pointer(operation: Json, field: str = "path") -> list[str]:
    """The reference tokens of a JSON pointer."""
    text = operation.get(field)
    if not isinstance(text, str):
        raise _Failed(f"{field} is missing")
    if text and not text.startswith("/"):
        raise _Failed(f"{field} does not begin with /")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _value(operation: Json) -> Any:
    if "value" not in operation:
        raise _Failed("value is missing")
    return operation["value"]


def _get(doc: Any, path: list[str]) -> Any:
    for token in path:
        doc = doc[_place(doc, token)]
    return doc


def _put(doc: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent, last = _get(doc, path[:-1]), path[-1]
    if isinstance(parent, dict):
        parent[last] = value
    elif isinstance(parent, list):
        parent.insert(len(parent) if last == "-" else _index(last, len(parent) + 1), value)
    else:
        raise _Failed(f"{last!r} is looked for in a value that is no object and no list")
    return doc


def _take(doc: Any, path: list[str]) -> Any:
    if not path:
        return None
    parent = _get(doc, path[:-1])
    del parent[_place(parent, path[-1])]
    return doc


def _place(parent: Any, token: str) -> Any:
    """The key or index of something that is there."""
    if isinstance(parent, dict):
        if token not in parent:
            raise _Failed(f"there is no {token!r}")
        return token
    if isinstance(parent, list):
        return _index(token, len(parent))
    raise _Failed(f"{token!r} is looked for in a value that is no object and no list")


def _index(token: str, size: int) -> int:
    digits = token.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise _Failed(f"{token!r} is no index")
    index = int(token)
    if not -size <= index < size:
        raise _Failed(f"index {index} is out of range")
    return index + size if index < 0 else index


def _refused(index: int, operation: Json, failure: _Failed) -> status.StatusError:
    reason = "JSONPatchTestFailed" if isinstance(failure, _TestFailed) else "JSONPatchFailed"
    message = f"operation {index} ({operation.get('op')} {operation.get('path')}): {failure}"
    return status.StatusError(
        422,
        "Invalid",
        f"the server rejected our request due to an error in our request: {message}",
        {},
        [Cause(reason, message, f"[{index}]")],
    )
