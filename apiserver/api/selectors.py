"""The selectors of a list or watch: `labelSelector` and `fieldSelector` of the query.

The grammar and the texts of the errors are those of k8s.io/apimachinery `pkg/labels/selector.go`
and `pkg/fields/selector.go`.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from apiserver.api import status
from policy.labels import label_key_errors, label_value_errors

ALWAYS = ("metadata.name", "metadata.namespace")
_TOKEN = re.compile(r"\s*(==|!=|=|!|,|\(|\)|<|>|[^\s=!,()<>]+)")
_SYMBOLS = frozenset({"=", "==", "!=", "!", ",", "(", ")", "<", ">"})

Test = Callable[[Mapping[str, str]], bool]


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """An AND of tests on labels."""

    tests: tuple[Test, ...] = ()

    @property
    def empty(self) -> bool:
        return not self.tests

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(test(labels) for test in self.tests)


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """An AND of (path, wanted equal, value) on the fields of an object."""

    terms: tuple[tuple[str, bool, str], ...] = ()

    @property
    def empty(self) -> bool:
        return not self.terms

    def matches(self, obj: Mapping[str, Any]) -> bool:
        return all((_field(obj, path) == value) is equal for path, equal, value in self.terms)


def parse_labels(text: str) -> LabelSelector:
    """`k`, `!k`, `k=v`, `k!=v`, `k in (a,b)`, `k notin (a)`, `k>1`, joined by commas."""
    return LabelSelector(tuple(_Parser(text).selector())) if text.strip() else LabelSelector()


def parse_fields(text: str, allowed: Collection[str]) -> FieldSelector:
    """`path=value`, `path!=value`, joined by commas, with `\\` before a special character."""
    terms = []
    for part in re.split(r"(?<!\\),", text) if text else ():
        found = re.fullmatch(r"(.*?)(?<!\\)(!=|==|=)(.*)", part, re.DOTALL)
        if found is None:
            raise status.bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        path, operator, value = found.groups()
        if path not in ALWAYS and path not in allowed:
            raise status.bad_request(f"field label not supported: {path}")
        if re.search(r"(?<!\\)=", value):
            raise status.bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        terms.append((path, operator != "!=", re.sub(r"\\([\\,=])", r"\1", value)))
    return FieldSelector(tuple(terms))


def _field(obj: Any, path: str) -> str:
    for key in path.split("."):
        obj = obj.get(key) if isinstance(obj, Mapping) else None
    if isinstance(obj, bool):
        return str(obj).lower()
    return str(obj) if isinstance(obj, str | int) else ""


class _Parser:
    """A recursive descent over the tokens of a label selector."""

    def __init__(self, text: str) -> None:
        self._tokens = [match.group(1) for match in _TOKEN.finditer(text)]
        self._at = 0

    def selector(self) -> list[Test]:
        tests = [self._requirement()]
        while (token := self._next()) == ",":
            if self._peek() == "":
                raise _bad("found '', expected: identifier after ','")
            tests.append(self._requirement())
        if token:
            raise _bad(f"found '{token}', expected: ',' or 'end of string'")
        return tests

    def _requirement(self) -> Test:
        if self._peek() == "!":
            self._next()
            key = self._key()
            return lambda labels: key not in labels
        key = self._key()
        token = self._peek()
        if token in ("", ","):
            return lambda labels: key in labels
        self._next()
        match token.lower() if token in ("gt", "lt") else token:
            case "=" | "==":
                value = self._value(key)
                return lambda labels: labels.get(key) == value
            case "!=":
                value = self._value(key)
                return lambda labels: labels.get(key) != value
            case "in":
                values = self._values(key)
                return lambda labels: labels.get(key) in values
            case "notin":
                values = self._values(key)
                return lambda labels: key not in labels or labels[key] not in values
            case ">" | "gt":
                return self._compare(key, lambda have, than: have > than)
            case "<" | "lt":
                return self._compare(key, lambda have, than: have < than)
        raise _bad(
            f"unable to parse requirement: found '{token}', expected: in, notin, =, ==, !=, gt, lt"
        )

    def _compare(self, key: str, holds: Callable[[int, int], bool]) -> Test:
        text = self._value(key)
        if not _integer(text):
            raise _bad(
                f'unable to parse requirement: values[0][{key}]: Invalid value: "{text}":'
                " for 'Gt', 'Lt' operators, the value must be an integer"
            )
        bound = int(text)
        return lambda labels: _integer(labels.get(key, "")) and holds(int(labels[key]), bound)

    def _key(self) -> str:
        token = self._next()
        if token in _SYMBOLS or not token:
            raise _bad(f"found '{token}', expected: !, identifier, or 'end of string'")
        if errors := label_key_errors(token):
            raise _bad(f'unable to parse requirement: key: Invalid value: "{token}": {errors[0]}')
        return token

    def _value(self, key: str) -> str:
        if self._peek() in ("", ","):
            return ""
        token = self._next()
        if token in _SYMBOLS:
            raise _bad(f"unable to parse requirement: found '{token}', expected: identifier")
        return _checked(key, 0, token)

    def _values(self, key: str) -> frozenset[str]:
        opened = self._next()
        if opened != "(":
            raise _bad(f"unable to parse requirement: found '{opened}', expected: '('")
        values = [""]
        while (token := self._next()) != ")":
            if token == ",":
                values.append("")
            elif token in _SYMBOLS or not token or values[-1]:
                raise _bad(f"unable to parse requirement: found '{token}', expected: ',' or ')'")
            else:
                values[-1] = _checked(key, len(values) - 1, token)
        return frozenset(values)

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token


def _checked(key: str, index: int, value: str) -> str:
    if errors := label_value_errors(value):
        raise _bad(
            f'unable to parse requirement: values[{index}][{key}]: Invalid value: "{value}":'
            f" {errors[0]}"
        )
    return value


def _integer(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,18}", text) is not None


def _bad(message: str) -> status.StatusError:
    return status.bad_request(message)
