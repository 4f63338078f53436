"""Two ways to merge a patch into an object: RFC 7396 and Kubernetes' strategic merge.

Each returns a new object and leaves its inputs alone. Which lists a strategic merge keys is read
from the schemas (`x-kubernetes-patch-merge-key`), so that it does what OpenAPI tells kubectl.
"""

import copy
from typing import Any

from apiserver.api import schemas, status

MERGE_KEY = "x-kubernetes-patch-merge-key"
STRATEGY = "x-kubernetes-patch-strategy"

Json = dict[str, Any]


def merge_patch(doc: Any, patch: Any) -> Any:
    """RFC 7396: null deletes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(doc) if isinstance(doc, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def strategic_merge_patch(doc: Json, patch: Json, schema: str) -> Json:
    """k8s.io/apimachinery `pkg/util/strategicpatch`, for an object of a schema."""
    merged: Json = _merge(doc, patch, schemas.DEFINITIONS[schema])
    return merged


def _merge(doc: Any, patch: Any, schema: Json) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    directive = patch.get("$patch")
    content = {key: value for key, value in patch.items() if not key.startswith("$")}
    if directive == "replace" or not isinstance(doc, dict):
        return {key: value for key, value in content.items() if value is not None}
    if directive == "delete":
        return {}
    properties = schemas.resolve(schema).get("properties", {})
    merged = dict(doc)
    for key, value in content.items():
        field = properties.get(key, {})
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = _merge(merged.get(key), value, field)
        elif isinstance(value, list) and field.get(STRATEGY) == "merge":
            merged[key] = _merge_list(merged.get(key), value, field)
        else:
            merged[key] = copy.deepcopy(value)
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            merged[name] = [item for item in merged.get(name) or () if item not in value]
    retain = patch.get("$retainKeys")
    if isinstance(retain, list):
        merged = {key: value for key, value in merged.items() if key in retain}
    for key, order in patch.items():
        name = key.partition("/")[2]
        if key.startswith("$setElementOrder/") and isinstance(merged.get(name), list):
            merged[name] = _ordered(merged[name], order, properties.get(name, {}).get(MERGE_KEY))
    return merged


def _merge_list(have: Any, patch: list[Any], schema: Json) -> list[Any]:
    have = have if isinstance(have, list) else []
    merge_key = schema.get(MERGE_KEY)
    if merge_key is None:
        return [*have, *(item for item in patch if item not in have)]
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if item.get("$patch") != "replace"]
    merged = {_key(item, merge_key): item for item in have}
    for item in patch:
        key = _key(item, merge_key)
        if isinstance(item, dict) and item.get("$patch") == "delete":
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), item, schema.get("items", {}))
    return list(merged.values())


def _key(item: Any, merge_key: str) -> Any:
    value = item.get(merge_key) if isinstance(item, dict) else item
    if isinstance(value, dict | list) or value is None:
        raise status.bad_request(
            f"error decoding patch: an element of a list lacks its merge key {merge_key}"
        )
    return value


def _ordered(items: list[Any], order: Any, merge_key: str | None) -> list[Any]:
    """Elements that the order names come in it; others stay behind what they followed."""
    if not isinstance(order, list):
        return items
    wanted = [_key(item, merge_key) if merge_key else item for item in order]
    rank = {key: index for index, key in enumerate(wanted)}
    place, ranked = -1, []
    for item in items:
        place = rank.get(_key(item, merge_key) if merge_key else item, place)
        ranked.append((place, item))
    return [item for _, item in sorted(ranked, key=lambda pair: pair[0])]
