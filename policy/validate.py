"""Every error of a NetworkPolicy in canonical spelling (semantics: "Object").

The API server refuses an object that has one; the enforcer grants nothing for it. An unknown key
anywhere in the spec is an error: a misspelt restriction must never widen.
"""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from policy import errors
from policy.errors import FieldError, shown
from policy.labels import label_key_errors, label_value_errors
from policy.types import Operator, Protocol

SPEC_KEYS = ("podSelector", "allowIncoming")
RULE_KEYS = ("from", "toPorts")
PEER_KEYS = ("pods", "namespaces")
PORT_KEYS = ("port", "protocol")
SELECTOR_KEYS = ("matchLabels", "matchExpressions")
EXPRESSION_KEYS = ("key", "operator", "values")
HIGHEST = 65535


def validate(obj: Mapping[str, Any]) -> list[FieldError]:
    """All errors of the spec, in the order of its fields; never raises, whatever the types."""
    spec = obj.get("spec")
    if spec is None:
        return [errors.required("spec", "say what the policy allows; {} allows nothing")]
    if not isinstance(spec, Mapping):
        return [errors.wrong_type("spec", spec, "an object")]
    found = _unknown(spec, SPEC_KEYS, "spec")
    found += _selector(spec.get("podSelector"), "spec.podSelector")
    rules = spec.get("allowIncoming")
    if isinstance(rules, list):
        for index, rule in enumerate(rules):
            found += _rule(rule, f"spec.allowIncoming[{index}]")
    else:
        found += _rule(rules, "spec.allowIncoming", alone=True)
    return found


def is_label_selector(value: Mapping[str, Any]) -> bool:
    """Whether an object is a LabelSelector, not a plain label map (a label may be so named)."""
    return isinstance(value.get("matchLabels"), Mapping) or isinstance(
        value.get("matchExpressions"), list
    )


def _rule(rule: Any, path: str, *, alone: bool = False) -> list[FieldError]:
    if rule is None:
        return []
    if not isinstance(rule, Mapping):
        wanted = "a rule (an object) or a list of rules" if alone else "a rule (an object)"
        return [errors.wrong_type(path, rule, wanted)]
    found = _unknown(rule, RULE_KEYS, path)
    for key, check in (("from", _peer), ("toPorts", _port)):
        items = rule.get(key)
        if items is None:
            continue
        if not isinstance(items, list):
            found.append(errors.wrong_type(f"{path}.{key}", items, "a list"))
            continue
        for index, item in enumerate(items):
            found += check(item, f"{path}.{key}[{index}]")
    return found


def _peer(peer: Any, path: str) -> list[FieldError]:
    if not isinstance(peer, Mapping):
        return [errors.wrong_type(path, peer, "an object with pods or namespaces")]
    found = _unknown(peer, PEER_KEYS, path)
    named = [key for key in PEER_KEYS if key in peer]
    if len(named) == 2:
        found.append(
            errors.forbidden(
                path, "pods and namespaces exclude each other; make two entries of them"
            )
        )
    if not named:
        found.append(
            errors.required(
                path,
                "must have pods or namespaces; for any source leave out `from`,"
                " for every pod say namespaces: {}",
            )
        )
    for key in named:
        value = peer[key]
        if value is None:
            found.append(
                errors.required(f"{path}.{key}", "must be a selector; {} selects every pod")
            )
        else:
            found += _selector(value, f"{path}.{key}")
    return found


def _port(port: Any, path: str) -> list[FieldError]:
    if not isinstance(port, Mapping):
        return [errors.wrong_type(path, port, "an object with port and protocol")]
    found = _unknown(port, PORT_KEYS, path)
    protocol = port.get("protocol")
    name = protocol.upper() if isinstance(protocol, str) else protocol
    if protocol is not None and not isinstance(protocol, str):
        found.append(errors.wrong_type(f"{path}.protocol", protocol, "a string"))
    elif protocol is not None and name not in Protocol.__members__:
        found.append(errors.unsupported(f"{path}.protocol", protocol, tuple(Protocol)))
    number = port.get("port")
    if number is None:
        return found
    if name == Protocol.ICMP:
        found.append(errors.forbidden(f"{path}.port", "ICMP has no ports; leave it out"))
        return found
    return found + _port_number(number, f"{path}.port")


def _port_number(value: Any, path: str) -> list[FieldError]:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return [errors.wrong_type(path, value, 'a number, a range "lo:hi" or the name of a port')]
    if isinstance(value, int):
        return _in_range(value, value, path)
    low, colon, high = value.partition(":")
    if colon:
        if not (is_number(low) and is_number(high)):
            return [errors.invalid(path, value, 'a range is two numbers, as in "8000:8080"')]
        found = _in_range(int(low), value, path) or _in_range(int(high), value, path)
        if not found and int(low) > int(high):
            found = [errors.invalid(path, value, "the range ends before it begins")]
        return found
    if is_number(value):
        return _in_range(int(value), value, path)
    return [errors.invalid(path, value, why) for why in _port_name_errors(value)]


def _in_range(number: int, value: Any, path: str) -> list[FieldError]:
    if 1 <= number <= HIGHEST:
        return []
    return [errors.invalid(path, value, "must be between 1 and 65535, inclusive")]


def is_number(text: str) -> bool:
    """Plain ASCII digits, few enough that a huge one costs nothing to read."""
    return text.isascii() and text.isdigit() and len(text) <= 20


def _port_name_errors(name: str) -> list[str]:
    """`IsValidPortName` of k8s.io/apimachinery."""
    found = []
    if len(name) > 15:
        found.append("must be no more than 15 characters")
    if not name or not set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-"):
        found.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not any(char.isalpha() for char in name):
        found.append("must contain at least one letter (a-z)")
    if "--" in name:
        found.append("must not contain consecutive hyphens")
    if name.startswith("-") or name.endswith("-"):
        found.append("must not begin or end with a hyphen")
    return found


def _selector(value: Any, path: str) -> list[FieldError]:
    if value is None:
        return []
    if not isinstance(value, Mapping):
        return [errors.wrong_type(path, value, "a map of labels or a LabelSelector")]
    if not is_label_selector(value):
        return _labels(value, path)
    found = _unknown(value, SELECTOR_KEYS, path)
    labels, expressions = value.get("matchLabels"), value.get("matchExpressions")
    if labels is not None and not isinstance(labels, Mapping):
        found.append(errors.wrong_type(f"{path}.matchLabels", labels, "a map of labels"))
    elif labels:
        found += _labels(labels, f"{path}.matchLabels")
    if expressions is not None and not isinstance(expressions, list):
        found.append(errors.wrong_type(f"{path}.matchExpressions", expressions, "a list"))
    for index, expression in enumerate(expressions if isinstance(expressions, list) else ()):
        found += _expression(expression, f"{path}.matchExpressions[{index}]")
    return found


def _labels(labels: Mapping[str, Any], path: str) -> list[FieldError]:
    found = []
    for key, value in labels.items():
        found += [errors.invalid(path, key, why) for why in label_key_errors(key)]
        where = f"{path}.{key}"
        if not isinstance(value, str):
            found.append(
                errors.wrong_type(where, value, f"a string; write {key}: {_quoted(value)}")
            )
        else:
            found += [errors.invalid(where, value, why) for why in label_value_errors(value)]
    return found


def _expression(expression: Any, path: str) -> list[FieldError]:
    if not isinstance(expression, Mapping):
        return [errors.wrong_type(path, expression, "an object with key, operator and values")]
    found = _unknown(expression, EXPRESSION_KEYS, path)
    key, operator = expression.get("key"), expression.get("operator")
    if not key:
        found.append(errors.required(f"{path}.key", "must be the name of a label"))
    elif not isinstance(key, str):
        found.append(errors.wrong_type(f"{path}.key", key, "a string"))
    else:
        found += [errors.invalid(f"{path}.key", key, why) for why in label_key_errors(key)]
    operators = tuple(Operator)
    if not operator:
        found.append(errors.required(f"{path}.operator", f"must be one of {', '.join(operators)}"))
    elif not isinstance(operator, str) or operator not in operators:
        found.append(errors.unsupported(f"{path}.operator", operator, operators))
    return found + _values(expression.get("values"), operator, f"{path}.values")


def _values(values: Any, operator: Any, path: str) -> list[FieldError]:
    if values is not None and not isinstance(values, list):
        return [errors.wrong_type(path, values, "a list of strings")]
    if operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST) and values:
        return [errors.forbidden(path, f"may not be set when the operator is {operator}")]
    if operator in (Operator.IN, Operator.NOT_IN) and not values:
        return [errors.required(path, f"must not be empty when the operator is {operator}")]
    found = []
    for index, value in enumerate(values or ()):
        where = f"{path}[{index}]"
        if not isinstance(value, str):
            found.append(errors.wrong_type(where, value, "a string"))
        else:
            found += [errors.invalid(where, value, why) for why in label_value_errors(value)]
    return found


def _unknown(level: Mapping[str, Any], known: Collection[str], path: str) -> list[FieldError]:
    found = []
    for key in level:
        if key not in known:
            near = difflib.get_close_matches(key[:64], known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known fields: {', '.join(known)}"
            found.append(
                FieldError(
                    f"{path}.{key}", "FieldValueForbidden", f"Forbidden: unknown field; {hint}"
                )
            )
    return found


def _quoted(value: Any) -> str:
    return f'"{shown(value)}"' if isinstance(value, int | float) else '"…"'
