"""The representations that a client can ask for beside the object: Table and metadata only."""

from collections.abc import Mapping, Sequence
from typing import Any

from apiserver.api.resource import Resource

META = "meta.k8s.io"


def table(
    resource: Resource,
    objects: Sequence[Mapping[str, Any]],
    *,
    list_meta: Mapping[str, Any],
    include: str,
    version: str,
    now: float,
    headers: bool = True,
) -> dict[str, Any]:
    """What `kubectl get` prints. `include` is None, Metadata or Object; a watch sends the
    headers with its first event only."""
    definitions = [
        {
            "name": column.name,
            "type": column.type,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        }
        for column in resource.columns
    ]
    rows = []
    for obj in objects:
        # A bookmark has no content to fill cells with, only a revision to carry.
        row: dict[str, Any] = {"cells": [column.cell(obj, now) for column in resource.columns]}
        if include == "Metadata":
            row["object"] = partial_metadata(obj, version=version)
        elif include == "Object":
            row["object"] = obj
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": f"{META}/{version}",
        "metadata": dict(list_meta),
        "columnDefinitions": definitions if headers else None,
        "rows": rows,
    }


def partial_metadata(obj: Mapping[str, Any], *, version: str) -> dict[str, Any]:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"{META}/{version}",
        "metadata": obj.get("metadata", {}),
    }


def partial_metadata_list(
    objects: Sequence[Mapping[str, Any]], *, list_meta: Mapping[str, Any], version: str
) -> dict[str, Any]:
    return {
        "kind": "PartialObjectMetadataList",
        "apiVersion": f"{META}/{version}",
        "metadata": dict(list_meta),
        "items": [partial_metadata(obj, version=version) for obj in objects],
    }
