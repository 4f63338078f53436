"""What Kubernetes adds to CEL (k8s.io/apiserver `pkg/cel/library`) and the runtime lacks.

Values are those of JSON. An exception of a function is the error of the expression. What asks the
authorizer is in `checks`.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Strings = list[str]


class Function(NamedTuple):
    """Types are the names of the runtime's; `LIST` is of anything."""

    name: str
    parameters: Sequence[str]
    returns: str
    call: Callable[..., Any]
    member: bool = True


def equal(one: Any, other: Any) -> bool:
    """True is not 1, as it is in Python."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def holds(found: list[Any], wanted: Any) -> bool:
    return any(equal(item, wanted) for item in found)


def find(text: str, pattern: str) -> str:
    match = re.search(pattern, text)
    return match[0] if match else ""


def find_all(text: str, pattern: str, limit: int = -1) -> Strings:
    found = [match[0] for match in re.finditer(pattern, text)]
    return found if limit < 0 else found[:limit]


def is_sorted(found: list[Any]) -> bool:
    return all(one <= other for one, other in itertools.pairwise(found))


def contains(found: list[Any], wanted: list[Any]) -> bool:
    return all(holds(found, item) for item in wanted)


def equivalent(one: list[Any], other: list[Any]) -> bool:
    return contains(one, other) and contains(other, one)


def intersects(one: list[Any], other: list[Any]) -> bool:
    return any(holds(one, item) for item in other)


FUNCTIONS = (
    Function("find", ("STRING", "STRING"), "STRING", find),
    Function("findAll", ("STRING", "STRING"), "LIST", find_all),
    Function("findAll", ("STRING", "STRING", "INT"), "LIST", find_all),
    Function("isSorted", ("LIST",), "BOOL", is_sorted),
    Function("sum", ("LIST",), "DYN", sum),
    Function("min", ("LIST",), "DYN", min),
    Function("max", ("LIST",), "DYN", max),
    Function("sets.contains", ("LIST", "LIST"), "BOOL", contains, member=False),
    Function("sets.equivalent", ("LIST", "LIST"), "BOOL", equivalent, member=False),
    Function("sets.intersects", ("LIST", "LIST"), "BOOL", intersects, member=False),
)
