"""Short ways to write a schema; each argument that is text is a description for people."""

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]
OPEN = {"x-kubernetes-preserve-unknown-fields": True}


def text(description: str, **more: Any) -> Schema:
    return {"description": description, "type": "string", **more}


def integer(description: str, bits: int = 32) -> Schema:
    return {"description": description, "type": "integer", "format": f"int{bits}"}


def boolean(description: str) -> Schema:
    return {"description": description, "type": "boolean"}


def time(description: str, form: str = "date-time") -> Schema:
    return {"description": description, "type": "string", "format": form}


def ref(name: str, description: str) -> Schema:
    """A reference keeps its own description beside it."""
    return {"description": description, "allOf": [{"$ref": name}], "default": {}}


def array(description: str, items: Schema, **more: Any) -> Schema:
    return {
        "description": description,
        "type": "array",
        "items": items,
        "x-kubernetes-list-type": "atomic",
        **more,
    }


def keyed(description: str, name: str, key: str) -> Schema:
    """A list of objects that patches merge by a key."""
    return {
        "description": description,
        "type": "array",
        "items": {"allOf": [{"$ref": name}], "default": {}},
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": [key],
        "x-kubernetes-patch-merge-key": key,
        "x-kubernetes-patch-strategy": "merge",
    }


def strings(description: str) -> Schema:
    return {
        "description": description,
        "type": "object",
        "additionalProperties": {"type": "string"},
    }


def obj(
    description: str,
    /,
    *,
    required: tuple[str, ...] = (),
    reserved: Mapping[str, Schema] | None = None,
    **properties: Schema,
) -> Schema:
    """`reserved` holds the properties whose names are words of Python."""
    schema: Schema = {"description": description, "type": "object"}
    if properties or reserved:
        schema["properties"] = {**(reserved or {}), **properties}
    if required:
        schema["required"] = list(required)
    return schema


def top(
    description: str,
    group: str,
    version: str,
    kind: str,
    /,
    *,
    metadata: str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
    **properties: Schema,
) -> Schema:
    """A type that stands for itself on the wire."""
    return {
        "description": description,
        "type": "object",
        "properties": {
            "apiVersion": text(
                "The version of the schema that this object is written in. May be left out of"
                " what is sent: the URL says it."
            ),
            "kind": text("The type of this object."),
            "metadata": ref(metadata, "Name, namespace, labels and annotations."),
            **properties,
        },
        "x-kubernetes-group-version-kind": [{"group": group, "version": version, "kind": kind}],
    }


def list_of(name: str, group: str, version: str, kind: str) -> Schema:
    listed = top(
        f"A list of {kind} objects.",
        group,
        version,
        kind + "List",
        metadata="io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta",
        items={
            "description": "The objects, in the order of namespace and name.",
            "type": "array",
            "items": {"allOf": [{"$ref": name}], "default": {}},
        },
    )
    return {**listed, "required": ["items"]}
