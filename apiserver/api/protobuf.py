"""Read the one object that kubectl sends as protobuf: the Namespace of `kubectl create namespace`.

The envelope is k8s.io/apimachinery `pkg/runtime/generated.proto`, the fields are those of
`k8s.io/api/core/v1/generated.proto`. Every other kind is refused with 415, and clients that are
told so use JSON.
"""

from collections.abc import Iterator
from typing import Any

from apiserver.api import status

MAGIC = b"k8s\0"
ACCEPTED = ("application/json", "application/yaml")

Json = dict[str, Any]


def decode(body: bytes) -> Json:
    """The Namespace. 400 for bytes that are no message, 415 for another kind."""
    if not body.startswith(MAGIC):
        raise status.bad_request("the body is not in the protobuf format of Kubernetes")
    try:
        envelope = dict(_fields(body[len(MAGIC) :]))
        types = {n: _text(value) for n, value in _fields(_bytes(envelope.get(1, b"")))}
        if types.get(2) != "Namespace":
            raise status.unsupported_media_type(ACCEPTED)
        namespace = dict(_fields(_bytes(envelope.get(2, b""))))
        metadata = _metadata(_bytes(namespace.get(1, b"")))
    except (ValueError, IndexError) as error:
        raise status.bad_request(f"the body is not a protobuf message: {error}") from error
    return {"apiVersion": types.get(1, ""), "kind": "Namespace", "metadata": metadata}


def _metadata(data: bytes) -> Json:
    names = {1: "name", 2: "generateName", 3: "namespace"}
    maps = {11: "labels", 12: "annotations"}
    found: Json = {}
    for number, value in _fields(data):
        if number in names and value:
            found[names[number]] = _text(value)
        elif number in maps:
            entry = dict(_fields(_bytes(value)))
            found.setdefault(maps[number], {})[_text(entry.get(1, b""))] = _text(entry.get(2, b""))
        elif number == 14:
            found.setdefault("finalizers", []).append(_text(value))
    return found


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The fields of a message: bytes for length-delimited ones, integers for varints."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                value, at = _varint(data, at)
                yield key >> 3, value
            case 2:
                size, at = _varint(data, at)
                if at + size > len(data):
                    raise ValueError("a field is longer than the message")
                yield key >> 3, data[at : at + size]
                at += size
            case kind:
                raise ValueError(f"unknown wire type {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")


def _bytes(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value


def _text(value: bytes | int) -> str:
    return _bytes(value).decode()
