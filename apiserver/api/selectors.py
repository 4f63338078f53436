"""The selectors of a list or watch: `labelSelector` and `fieldSelector` of the query.

The grammar and the texts of the errors are those of k8s.io/apimachinery `pkg/labels/selector.go`
and `pkg/fields/selector.go`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from apiserver.api import schemas, status
from apiserver.api.resource import Resource
from policy.labels import label_key_errors, label_value_errors

PRESERVE = "x-kubernetes-preserve-unknown-fields"
LONGEST = 64 << 10  # characters of a selector: thousands of terms
ALWAYS = ("metadata.name", "metadata.namespace")
_TOKEN = re.compile(r"\s*(==|!=|=|!|,|\(|\)|<|>|[^\s=!,()<>]+)")
_SYMBOLS = frozenset({"=", "==", "!=", "!", ",", "(", ")", "<", ">"})

Test = Callable[[Mapping[str, str]], bool]


class Requirement(NamedTuple):
    """One term of a selector as reviews write it: In, NotIn, Exists or DoesNotExist."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """An AND of tests on labels.

    `wanted` are those that an index answers: a label and the values of which it must have one.
    `requirements` leave out what compares numbers, which no review knows.
    """

    tests: tuple[Test, ...] = ()
    wanted: tuple[tuple[str, frozenset[str]], ...] = ()
    requirements: tuple[Requirement, ...] = ()

    @property
    def empty(self) -> bool:
        return not self.tests

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(test(labels) for test in self.tests)


Term = tuple[str, bool, str]


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """An AND of (path, wanted equal, value) on the fields of an object.

    For the terms on name and namespace (`identity`), and on paths that the resource indexes, which
    begin with a dot here, no object need be decoded.
    """

    identity: tuple[Term, ...] = ()
    indexed: tuple[Term, ...] = ()
    content: tuple[Term, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.identity or self.indexed or self.content)

    @property
    def wanted(self) -> tuple[tuple[str, frozenset[str]], ...]:
        """What an index answers, as for labels."""
        return tuple((path, frozenset((value,))) for path, equal, value in self.indexed if equal)

    @property
    def name(self) -> str:
        """The only name that can match; empty where several can."""
        names = {value for path, equal, value in self.identity if equal and path == ALWAYS[0]}
        return names.pop() if len(names) == 1 else ""

    def identifies(self, namespace: str, name: str) -> bool:
        found = {ALWAYS[0]: name, ALWAYS[1]: namespace}
        return all((found[path] == value) is equal for path, equal, value in self.identity)

    def finds(self, fields: Mapping[str, str]) -> bool:
        """Whether the indexed fields match."""
        return all((fields[path] == value) is equal for path, equal, value in self.indexed)

    def matches(self, obj: Mapping[str, Any]) -> bool:
        """Whether the content matches. A path through a list stands for all of its elements."""
        return all(
            (value in (list(_values(obj, path.split("."))) or [""])) is equal
            for path, equal, value in self.content
        )


def parse_labels(text: str) -> LabelSelector:
    """`k`, `!k`, `k=v`, `k!=v`, `k in (a,b)`, `k notin (a)`, `k>1`, joined by commas."""
    if not text.strip():
        return LabelSelector()
    _check_length(text)
    parser = _Parser(text)
    tests = tuple(parser.selector())
    return LabelSelector(tests, tuple(parser.wanted), tuple(parser.requirements))


def field(obj: Mapping[str, Any], path: str) -> str:
    """The first value of a path; empty where there is none."""
    return next(_values(obj, path.split(".")), "")


def parse_fields(text: str, resource: Resource) -> FieldSelector:
    """`path=value`, `path!=value`, joined by commas, with `\\` before a special character.

    Any scalar field of the schema can be asked for.
    """
    identity, indexed, content = [], [], []
    for term in _terms(text):
        path = term[0]
        if path in ALWAYS:
            identity.append(term)
        elif f".{path}" in resource.indexed:
            indexed.append((f".{path}", *term[1:]))
        elif _selectable(path.split("."), schemas.DEFINITIONS[resource.schema]):
            content.append(term)
        else:
            raise status.bad_request(f"field label not supported: {path}")
    return FieldSelector(tuple(identity), tuple(indexed), tuple(content))


def requirements_of_fields(text: str) -> tuple[Requirement, ...]:
    """The same as reviews write it, which know no empty path; whether or not there are others."""
    return tuple(
        Requirement(path, "In" if equal else "NotIn", (value,))
        for path, equal, value in sorted(_terms(text))
        if path
    )


def _check_length(text: str) -> None:
    """400: the head of a request may hold a selector that takes seconds to read."""
    if len(text) > LONGEST:
        raise status.bad_request(f"invalid selector: longer than {LONGEST} characters")


def _terms(text: str) -> Iterator[Term]:
    _check_length(text)
    for part in re.split(r"(?<!\\),", text) if text else ():
        found = re.fullmatch(r"(.*?)(?<!\\)(!=|==|=)(.*)", part, re.DOTALL)
        if found is None or re.search(r"(?<!\\)=", found[3]):
            raise status.bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        path, operator, value = found.groups()
        yield path, operator != "!=", re.sub(r"\\([\\,=])", r"\1", value)


def _selectable(parts: list[str], schema: dict[str, Any]) -> bool:
    """Whether a path leads to a scalar, through maps, whose keys may hold dots, and lists."""
    inner = schemas.resolve(schema)
    if inner.get("type") == "array":
        return _selectable(parts, inner["items"])
    if not parts:
        return inner.get("type") != "object"
    fields, values = inner.get("properties", {}), inner.get("additionalProperties")
    open_ended = schema.get(PRESERVE) or inner.get(PRESERVE)
    for size in range(1, len(parts) + 1):
        key = ".".join(parts[:size])
        below = fields.get(key, values if isinstance(values, dict) else None)
        if below is not None and _selectable(parts[size:], below):
            return True
    return bool(open_ended) and parts[0] not in fields


def _values(obj: Any, parts: list[str]) -> Iterator[str]:
    if isinstance(obj, list):
        for item in obj:
            yield from _values(item, parts)
    elif isinstance(obj, Mapping):
        for size in range(1, len(parts) + 1):
            if (key := ".".join(parts[:size])) in obj:
                yield from _values(obj[key], parts[size:])
    elif not parts and obj is not None:
        yield str(obj).lower() if isinstance(obj, bool) else str(obj)


class _Parser:
    """A recursive descent over the tokens of a label selector."""

    def __init__(self, text: str) -> None:
        self._tokens = [match.group(1) for match in _TOKEN.finditer(text)]
        self._at = 0
        self.wanted: list[tuple[str, frozenset[str]]] = []
        self.requirements: list[Requirement] = []

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
            self._require(key, "DoesNotExist")
            return lambda labels: key not in labels
        key = self._key()
        token = self._peek()
        if token in ("", ","):
            self._require(key, "Exists")
            return lambda labels: key in labels
        self._next()
        match token.lower() if token in ("gt", "lt") else token:
            case "=" | "==":
                value = self._value(key)
                self.wanted.append((key, frozenset((value,))))
                self._require(key, "In", value)
                return lambda labels: labels.get(key) == value
            case "!=":
                value = self._value(key)
                self._require(key, "NotIn", value)
                return lambda labels: labels.get(key) != value
            case "in":
                values = self._values(key)
                self.wanted.append((key, values))
                self._require(key, "In", *values)
                return lambda labels: labels.get(key) in values
            case "notin":
                values = self._values(key)
                self._require(key, "NotIn", *values)
                return lambda labels: key not in labels or labels[key] not in values
            case ">" | "gt":
                return self._compare(key, lambda have, than: have > than)
            case "<" | "lt":
                return self._compare(key, lambda have, than: have < than)
        raise _bad(
            f"unable to parse requirement: found '{token}', expected: in, notin, =, ==, !=, gt, lt"
        )

    def _require(self, key: str, operator: str, *values: str) -> None:
        self.requirements.append(Requirement(key, operator, tuple(sorted(values))))

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
