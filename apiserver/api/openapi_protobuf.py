"""The Swagger document as protobuf, which `kubectl apply` and `kubectl diff` ask for.

The messages are gnostic's `openapi.v2.Document` (google/gnostic `openapiv2/OpenAPIv2.proto`); the
numbers below are that file's. Only the fields that our document uses are written.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

Json = Mapping[str, Any]


def encode(document: Json) -> bytes:
    """A serialized `openapi.v2.Document`."""
    info = document["info"]
    paths = b"".join(
        _message(2, _named(path, _path_item(item))) for path, item in document["paths"].items()
    )
    definitions = b"".join(
        _message(1, _named(name, _schema(schema)))
        for name, schema in document["definitions"].items()
    )
    return (
        _text(1, document["swagger"])
        + _message(2, _text(1, info["title"]) + _text(2, info["version"]))
        + _message(8, paths)
        + _message(9, definitions)
    )


_METHODS = {"get": 2, "put": 3, "post": 4, "delete": 5, "patch": 8}


def _path_item(item: Json) -> bytes:
    body = b"".join(
        _message(number, _operation(item[method]))
        for method, number in _METHODS.items()
        if method in item
    )
    return body + b"".join(_message(9, _parameter(p)) for p in item.get("parameters", ()))


def _operation(operation: Json) -> bytes:
    responses = b"".join(
        _message(1, _named(code, _message(1, _response(response))))
        for code, response in operation["responses"].items()
    )
    return (
        _texts(1, operation["tags"])
        + _text(3, operation["description"])
        + _text(5, operation["operationId"])
        + _texts(6, operation["produces"])
        + _texts(7, operation["consumes"])
        + b"".join(_message(8, _parameter(p)) for p in operation["parameters"])
        + _message(9, responses)
        + _texts(10, operation["schemes"])
        + _extensions(13, operation)
    )


def _response(response: Json) -> bytes:
    return _text(1, response["description"]) + _message(2, _message(1, _schema(response["schema"])))


def _parameter(parameter: Json) -> bytes:
    """A ParametersItem: a Parameter that is in the body, the query or the path."""
    description = parameter.get("description", "")
    if parameter["in"] == "body":
        body = (
            _text(1, description)
            + _text(2, parameter["name"])
            + _text(3, "body")
            + _flag(4, parameter.get("required", False))
            + _message(5, _schema(parameter["schema"]))
        )
        return _message(1, _message(1, body))
    query = parameter["in"] == "query"
    common = (
        _flag(1, parameter.get("required", False))
        + _text(2, parameter["in"])
        + _text(3, description)
        + _text(4, parameter["name"])
    )
    # QueryParameterSubSchema has allow_empty_value at 5, so all that follows is one further on.
    kind = _text(6 if query else 5, parameter["type"])
    unique = _flag(20 if query else 19, parameter.get("uniqueItems", False))
    return _message(1, _message(2, _message(3 if query else 4, common + kind + unique)))


def _schema(schema: Json) -> bytes:
    body = _text(1, schema.get("$ref", ""))
    body += _text(2, schema.get("format", "")) + _text(4, schema.get("description", ""))
    if "default" in schema:
        body += _message(5, _any(schema["default"]))
    body += _texts(19, schema.get("required", ()))
    additional = schema.get("additionalProperties")
    if isinstance(additional, Mapping):
        body += _message(21, _message(1, _schema(additional)))
    if "type" in schema:
        body += _message(22, _text(1, schema["type"]))
    if "items" in schema:
        body += _message(23, _message(1, _schema(schema["items"])))
    if "properties" in schema:
        body += _message(
            25,
            b"".join(
                _message(1, _named(name, _schema(item)))
                for name, item in schema["properties"].items()
            ),
        )
    return body + _extensions(31, schema)


def _extensions(number: int, level: Json) -> bytes:
    return b"".join(
        _message(number, _named(key, _any(value)))
        for key, value in level.items()
        if key.startswith("x-")
    )


def _any(value: Any) -> bytes:
    """An Any carries its value as YAML."""
    return _text(2, yaml.dump(value, Dumper=yaml.CSafeDumper))


def _named(name: str, value: bytes) -> bytes:
    return _text(1, name) + _message(2, value)


def _texts(number: int, values: Sequence[str]) -> bytes:
    return b"".join(_message(number, value.encode()) for value in values)


def _text(number: int, value: str) -> bytes:
    return _message(number, value.encode()) if value else b""


def _flag(number: int, value: bool) -> bytes:
    return _varint(number << 3) + b"\x01" if value else b""


def _message(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
