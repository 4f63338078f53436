"""The types that the server speaks, as OpenAPI v3 schemas; the source of every published document.

`DEFINITIONS` maps a definition's name to its schema; references are `{"$ref": NAME}` in here and
become paths in the documents. Descriptions are what `kubectl explain` teaches.
"""

from typing import Any

from apiserver.api.schemas import core, extensions, meta, networkpolicy

DEFINITIONS: dict[str, dict[str, Any]] = {
    **meta.DEFINITIONS,
    **core.DEFINITIONS,
    **extensions.DEFINITIONS,
    **networkpolicy.DEFINITIONS,
}


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, or the definition that it refers to."""
    reference = schema.get("$ref")
    if reference is None and len(schema.get("allOf", ())) == 1:
        reference = schema["allOf"][0].get("$ref")
    return DEFINITIONS[reference] if reference else schema
