"""What Kubernetes adds to CEL (k8s.io/apiserver `pkg/cel/library`) and the runtime lacks.

Values are those of JSON. An exception of a function is the error of the expression. What asks the
authorizer is in `checks`.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import re2

Strings = list[str]

PATTERNS = 128  # compiled ones that are kept


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


def holds(found: Iterable[Any], wanted: Any) -> bool:
    return any(equal(item, wanted) for item in found)


def find(text: str, pattern: str) -> str:
    match = _pattern(pattern).search(text.encode())
    return match[0].decode() if match else ""


def find_all(text: str, pattern: str, limit: int = -1) -> Strings:
    """As Go's `FindAllString`: nothing that is empty right behind another match."""
    found: Strings = []
    end = -1
    for match in _pattern(pattern).finditer(text.encode()):
        if len(found) == limit:
            break
        if match.end() > match.start() or match.start() != end:
            found.append(match[0].decode())
        end = match.end()
    return found


@functools.lru_cache(PATTERNS)
def _pattern(pattern: str) -> Any:
    """RE2, which is the syntax of CEL, in time linear in the text. `ValueError`."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern.encode(), options)
    except re2.error as error:
        raise ValueError(f"error parsing regexp: {error.args[0].decode()}") from error


def is_sorted(found: list[Any]) -> bool:
    return all(one <= other for one, other in itertools.pairwise(found))


def contains(found: list[Any], wanted: list[Any]) -> bool:
    try:
        return _keys(wanted) <= _keys(found)
    except TypeError:  # lists and maps have no place in a set
        return all(holds(found, item) for item in wanted)


def equivalent(one: list[Any], other: list[Any]) -> bool:
    return contains(one, other) and contains(other, one)


def intersects(one: list[Any], other: list[Any]) -> bool:
    try:
        return not _keys(one).isdisjoint(_keys(other))
    except TypeError:
        return any(holds(one, item) for item in other)


def _keys(found: Iterable[Any]) -> set[tuple[bool, Any]]:
    return {(isinstance(item, bool), item) for item in found}


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
