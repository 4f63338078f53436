"""Read and decode a request body: its size, its type, its duplicates and unknown fields."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from apiserver.api import protobuf, status, strict
from apiserver.api.managedfields import fieldpath, typed
from apiserver.api.metadata import BODY_LIMIT
from apiserver.api.resource import Resource
from apiserver.api.schemas import DEFINITIONS
from apiserver.http import negotiation
from apiserver.registry.large import SMALL, Room
from apiserver.registry.strategy import Strategy

OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
TEXTS = frozenset({"name", "namespace", "generateName", "resourceVersion", "uid"})
MAPS = frozenset({"labels", "annotations"})


YAMLS = (negotiation.YAML, negotiation.APPLY_PATCH)
TAKEN = "room"  # in the scope: how many bytes of a request are to be given back
ASKED = "asked"  # in the scope: what a body in YAML says, as JSON


async def read(request: Request, room: Room) -> bytes:
    """The whole body. 413 above 3 MiB, 429 without room for a large one: before it is decoded."""
    length: bytes = request.scope["fields"].get(b"content-length", b"")
    known = int(length) if length.isdigit() else 0
    if known > SMALL:
        _take(request, room, known)
    chunks, size = [], 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > SMALL:
            _take(request, room, size)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _take(request: Request, room: Room, size: int) -> None:
    """Take room for so much of a body in all."""
    if size > BODY_LIMIT:
        raise status.too_large(BODY_LIMIT)
    taken = request.scope.get(TAKEN, 0)
    if size > taken:
        room.take(size - taken)
        request.scope[TAKEN] = size


class Decoded(NamedTuple):
    """An object in canonical spelling, and what is to be warned about.

    Where it is `valid`, that needs no further look; where not, it may be as well.
    """

    obj: dict[str, Any]
    warnings: list[str]
    valid: bool = False


def parsed(data: bytes, media: str, scope: Scope) -> tuple[Any, list[str]]:
    """What a body says, and its duplicate fields.

    What YAML says is left in the scope for the audit, which need not read it again.
    """
    if media == negotiation.PROTOBUF:
        return protobuf.decode(data), []
    if media not in YAMLS:
        return strict.decode_json(data)
    found, doubled = strict.decode_yaml(data)
    if "failure" in scope:
        scope[ASKED] = orjson.dumps(found)
    return found, doubled


def decode(data: bytes, media: str, strategy: Strategy, validation: str, scope: Scope) -> Decoded:
    """The object of a create or update. `apiVersion` and `kind` may be absent: the URL has them."""
    resource = strategy.resource
    obj, doubled = parsed(data, media, scope)
    if not isinstance(obj, dict):
        raise status.bad_request(
            f"the object provided is unrecognized (must be of type {resource.kind}):"
            " the body is not an object"
        )
    version, kind = obj.get("apiVersion"), obj.get("kind")
    if version not in (None, "", resource.api_version):
        raise status.bad_request(
            f"the API version in the data ({version}) does not match the expected API version"
            f" ({resource.api_version})"
        )
    if kind not in (None, "", resource.kind):
        raise status.bad_request(
            f'{resource.kind} in version "{resource.version}" cannot be handled as a'
            f' {resource.kind}: no kind "{kind}" is registered here: it must be {resource.kind}'
        )
    # The check in one step cannot be interrupted, and of a large object takes up to a second.
    if not doubled and len(data) <= SMALL and strategy.plain(obj):
        return Decoded(obj, [], valid=True)
    metadata = obj.setdefault("metadata", {})
    if metadata is None:
        obj["metadata"] = metadata = {}
    if not isinstance(metadata, dict):
        raise status.bad_request(
            f'{resource.kind} in version "{resource.version}" cannot be handled as a'
            f" {resource.kind}: metadata: must be an object"
        )
    _check_types(metadata, resource)
    return Decoded(*accept(obj, doubled, strategy, validation))


def _check_types(metadata: dict[str, Any], resource: Resource) -> None:
    """400 for metadata of another type than its schema's, in the words of Go's decoder."""
    if all(_is_text(key, value) for key, value in metadata.items()):
        return  # as of nearly all objects that people write
    for problem in typed.problems(metadata, DEFINITIONS[OBJECT_META], ("f:metadata",)):
        if problem.mistyped:
            field = fieldpath.text(problem.path).lstrip(".")
            raise status.bad_request(
                f'{resource.kind} in version "{resource.version}" cannot be handled as a'
                f" {resource.kind}: json: cannot unmarshal into Go struct field ObjectMeta.{field}:"
                f" {problem.why}"
            )


def _is_text(key: str, value: object) -> bool:
    if key in TEXTS:
        return isinstance(value, str)
    return (
        key in MAPS and isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    )


def decode_patch(data: bytes) -> Any:
    """What a merge or JSON patch says. 400 where it is no JSON."""
    try:
        change, _ = strict.decode_json(data)
    except status.StatusError as error:
        error.message = f"error decoding patch: {error.message}"
        raise
    return change


def decode_applied(
    data: bytes, strategy: Strategy, validation: str, scope: Scope
) -> tuple[dict[str, Any], list[str]]:
    """The configuration of an apply in canonical spelling, and what is to be warned about.

    Its kind and version must be said; what its schema does not know is left in, to be refused.
    """
    resource = strategy.resource
    applied, doubled = parsed(data, negotiation.APPLY_PATCH, scope)
    if not isinstance(applied, dict):
        raise status.bad_request("error decoding YAML: the configuration is not an object")
    if validation == "Strict" and doubled:
        raise status.bad_request(f"error strict decoding YAML: {', '.join(doubled)}")
    version, kind = applied.get("apiVersion") or "", applied.get("kind") or ""
    if (version, kind) != (resource.api_version, resource.kind):
        shown = version if "/" in str(version) else f"/{version}"
        raise status.bad_request(f"invalid object type: {shown}, Kind={kind}")
    meta = applied.get("metadata") or {}
    if not isinstance(meta, dict):
        raise status.bad_request("metadata must be an object")
    if meta.get("managedFields"):
        raise status.bad_request("metadata.managedFields must be nil")
    applied["metadata"] = {key: value for key, value in meta.items() if key != "managedFields"}
    applied, renamed = strategy.normalise(applied)
    return applied, [*renamed, *(doubled if validation == "Warn" else ())]


def accept(
    obj: dict[str, Any], doubled: list[str], strategy: Strategy, validation: str, code: int = 400
) -> tuple[dict[str, Any], list[str]]:
    """Settle the spelling, then drop fields that no schema knows; what to warn about.

    Fields of `strategy.closed` parts are never dropped: there the validation refuses what it does
    not know, because a restriction that vanishes would open a firewall. With Strict, duplicate and
    unknown fields are refused (400; 422 for a patch).
    """
    obj, renamed = strategy.normalise(obj)
    resource = strategy.resource
    unknown = strict.unknown_fields(obj, resource.schema)
    if validation == "Strict" and (doubled or unknown):
        text = f"strict decoding error: {', '.join([*doubled, *unknown])}"
        if code == 422:
            cause = status.Cause("FieldValueInvalid", f"Invalid value: {text}", "patch")
            raise status.invalid(resource.kind, resource.group, _name(obj), [cause])
        raise status.bad_request(
            f'{resource.kind} in version "{resource.version}" cannot be handled as a'
            f" {resource.kind}: {text}"
        )
    if unknown:
        obj = strict.without_unknown(obj, resource.schema, keep=strategy.closed)
    noted = [] if validation == "Ignore" else [*doubled, *unknown]
    return obj, [*renamed, *noted]


def place(obj: Mapping[str, Any], resource: Resource, namespace: str, name: str = "") -> None:
    """400 where the body names another namespace or, given a name, another object."""
    metadata = obj["metadata"]
    if resource.namespaced and metadata.get("namespace") not in (None, "", namespace):
        raise status.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    if not name:
        return
    if not metadata.get("name"):
        raise status.bad_request(
            f"the name of the object ({name} based on URL) was undeterminable:"
            " name must be provided"
        )
    if metadata["name"] != name:
        raise status.bad_request(
            f"the name of the object ({metadata['name']}) does not match the name on the URL"
            f" ({name})"
        )


def _name(obj: Mapping[str, Any]) -> str:
    metadata = obj.get("metadata")
    return str(metadata.get("name") or "") if isinstance(metadata, dict) else ""
