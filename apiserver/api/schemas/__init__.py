"""The types that the server speaks, as OpenAPI v3 schemas; the source of every published document.

`DEFINITIONS` maps a definition's name to its schema; references are `{"$ref": NAME}` in here and
become paths in the documents. Descriptions are what `kubectl explain` teaches.
"""

from collections.abc import Iterator
from typing import Any

from apiserver.api.schemas import core, extensions, meta, networkpolicy

Schema = dict[str, Any]
CONTAINERS = (dict, list)  # the values that have others in them; made once for hot paths

DEFINITIONS: dict[str, Schema] = {
    **meta.DEFINITIONS,
    **core.DEFINITIONS,
    **extensions.DEFINITIONS,
    **networkpolicy.DEFINITIONS,
}


def _follow(schema: Schema) -> Schema:
    reference = schema.get("$ref")
    if reference is None and len(schema.get("allOf", ())) == 1:
        reference = schema["allOf"][0].get("$ref")
    return DEFINITIONS[reference] if reference else schema


def _parts(schema: Any) -> Iterator[Schema]:
    """A schema and all schemas inside it."""
    if isinstance(schema, dict):
        yield schema
        for part in schema.values():
            yield from _parts(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _parts(part)


# Every write looks a schema up some thirty times. The definitions live as long as the process, so
# their identities are as good as names.
_FOLLOWED = {id(part): _follow(part) for schema in DEFINITIONS.values() for part in _parts(schema)}


def resolve(schema: Schema) -> Schema:
    """The schema itself, or the definition that it refers to."""
    return _FOLLOWED.get(id(schema)) or _follow(schema)
