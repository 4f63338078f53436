"""The OpenAPI documents, v2 and v3, generated from the resources and the schemas.

kubectl reads them for `explain`, for validation, and to learn what a PATCH takes: exactly what is
served is advertised. Both documents are deterministic, so that their ETags are.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from apiserver.api.resource import Resource
from apiserver.api.schemas import DEFINITIONS

TITLE = "networkpolicys"
VERSION = "v1alpha1"
MEDIA = ["application/json", "application/yaml"]
PATCHES = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
]
_META = "io.k8s.apimachinery.pkg.apis.meta.v1."
_STATUS = _META + "Status"
_INTEGERS = frozenset({"limit", "timeoutSeconds", "gracePeriodSeconds"})
_BOOLEANS = frozenset(
    {"watch", "allowWatchBookmarks", "sendInitialEvents", "force", "orphanDependents"}
)
_LISTING = (
    ("allowWatchBookmarks", "Send bookmarks, so that a watch can resume where it is."),
    ("continue", "The token of the page before."),
    ("fieldSelector", "Only objects with these fields."),
    ("labelSelector", "Only objects with these labels."),
    ("limit", "How many objects a page may hold."),
    ("resourceVersion", "The state to read or to watch from."),
    ("resourceVersionMatch", "How resourceVersion is meant: Exact or NotOlderThan."),
    ("sendInitialEvents", "Begin a watch with the present state and mark its end."),
    ("timeoutSeconds", "How long a watch lasts."),
    ("watch", "Stream the changes instead of listing."),
)
_WRITING = (
    ("dryRun", "All: check everything, store nothing."),
    ("fieldManager", "The name of who writes."),
    ("fieldValidation", "What to do about unknown fields: Ignore, Warn or Strict."),
)
_PATCHING = (*_WRITING, ("force", "Only for server-side apply."))
_DELETING = (
    ("dryRun", "All: check everything, delete nothing."),
    ("gracePeriodSeconds", "Not used by these resources."),
    ("orphanDependents", "Replaced by propagationPolicy."),
    ("propagationPolicy", "What happens to dependents."),
)

Json = dict[str, Any]


def documents_v3(resources: Sequence[Resource]) -> dict[str, Json]:
    """All documents of version 3 by what follows `/openapi/v3/` in their path."""
    groups = {resource.group for resource in resources}
    plain = {"version": "The version of the server.", "apis": "The groups that are served."}
    plain |= {f"apis/{group}": "The versions of the group." for group in groups if group}
    if "" in groups:
        plain["api"] = "The versions of the core group."
    found = {path: _plain_v3(f"/{path}", text) for path, text in plain.items()}
    for root in {resource.root for resource in resources}:
        listed = [resource for resource in resources if resource.root == root]
        found[root.lstrip("/")] = _openapi_v3(listed)
    return found


def _openapi_v3(resources: Sequence[Resource]) -> Json:
    """The document of one group version."""
    paths: Json = {}
    for path, operations in _paths(resources):
        paths[path] = {method: _operation_v3(operation) for method, operation in operations.items()}
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        paths[path]["parameters"] = [_parameter_v3(name, _PATH[name], "path") for name in names] + [
            _parameter_v3("pretty", "Indent the answer.", "query")
        ]
    schemas = _closure([r.schema for r in resources])
    return {
        "openapi": "3.0.0",
        "info": {"title": TITLE, "version": VERSION},
        "paths": paths,
        "components": {"schemas": _located(schemas, "#/components/schemas/")},
    }


def _plain_v3(path: str, description: str) -> Json:
    """The document of a path that gives no resource, such as `/apis`."""
    answer = {"description": "OK", "content": {"application/json": {"schema": {"type": "object"}}}}
    return {
        "openapi": "3.0.0",
        "info": {"title": TITLE, "version": VERSION},
        "paths": {
            path: {
                "get": {
                    "description": description,
                    "operationId": "get" + path.title().replace("/", "").replace(".", ""),
                    "responses": {"200": answer},
                }
            }
        },
    }


def openapi_v3_index(hashes: Mapping[str, str]) -> Json:
    """`/openapi/v3`: where each document is, at a URL that changes with its content."""
    return {
        "paths": {
            path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={etag}"}
            for path, etag in sorted(hashes.items())
        }
    }


def openapi_v2(resources: Sequence[Resource]) -> Json:
    """The one document of all group versions, as Swagger 2.0."""
    paths: Json = {}
    for path, operations in _paths(resources):
        paths[path] = {method: _operation_v2(operation) for method, operation in operations.items()}
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        paths[path]["parameters"] = [_parameter_v2(name, _PATH[name], "path") for name in names] + [
            _parameter_v2("pretty", "Indent the answer.", "query")
        ]
    definitions = _located(_closure([r.schema for r in resources]), "#/definitions/")
    return {
        "swagger": "2.0",
        "info": {"title": TITLE, "version": VERSION},
        "paths": paths,
        "definitions": {name: _downgraded(schema) for name, schema in definitions.items()},
    }


_PATH = {"namespace": "The namespace of the objects.", "name": "The name of the object."}


class _Operation:
    """One method of one path, before it is written in either version."""

    def __init__(
        self,
        resource: Resource,
        action: str,
        name: str,
        *,
        answer: str,
        codes: tuple[int, ...] = (200,),
        parameters: tuple[tuple[str, str], ...] = (),
        body: str = "",
    ) -> None:
        self.resource = resource
        self.action = action
        self.name = name
        self.answer = answer
        self.codes = codes
        self.parameters = parameters
        self.body = body

    @property
    def patch(self) -> bool:
        return self.action == "patch"

    @property
    def failures(self) -> tuple[int, ...]:
        return tuple(sorted(_ANSWERS.get(self.action, _WRITE)))

    def common(self) -> Json:
        resource = self.resource
        return {
            "description": _SAYS[self.action].format(kind=resource.kind),
            "operationId": self.name,
            "tags": [resource.group or "core"],
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": {
                "group": resource.group,
                "kind": resource.kind,
                "version": resource.version,
            },
        }


_FAILURES = {
    400: "The request cannot be read.",
    403: "The request is understood, and not allowed.",
    404: "There is no such object, or no such namespace.",
    405: "The path does not take this method.",
    406: "Nothing that the client accepts can be served.",
    409: "The object exists already, or is not as the request presumes.",
    410: "The state that is asked for is no longer kept.",
    413: "The body is too large.",
    415: "The type of the body is not served.",
    422: "The object or an option is invalid; each field has its cause.",
    429: "Too many requests, or a cache that is not filled yet; Retry-After says when.",
    503: "The storage cannot be reached, or the server ends; Retry-After says when.",
    504: "The request took too long, or asks for a state that is not there yet.",
}
_EVERY = (400, 404, 405, 406, 429, 503, 504)
_READ = (*_EVERY, 410, 422)
_WRITE = (*_EVERY, 403, 409, 413, 415, 422)
_ANSWERS = {"get": _EVERY, "list": _READ, "watch": _READ, "watchlist": _READ}
_DESCRIBED = {200: "OK", 201: "Created", 202: "Accepted: the object goes when nothing holds it"}

_SAYS = {
    "watch": "Watch one {kind}. Deprecated: list with watch and a field selector.",
    "watchlist": "Watch objects of kind {kind}. Deprecated: list with watch.",
    "get": "Read one {kind}.",
    "list": "List or watch objects of kind {kind}.",
    "post": "Create a {kind}.",
    "put": "Replace a {kind}.",
    "patch": "Change some fields of a {kind}.",
    "delete": "Delete a {kind}.",
    "deletecollection": "Delete all objects of kind {kind} that the selectors match.",
}


def _paths(resources: Sequence[Resource]) -> list[tuple[str, dict[str, _Operation]]]:
    found = []
    for resource in sorted(resources, key=lambda r: (r.root, r.plural)):
        scope = "Namespaced" if resource.namespaced else ""
        inside = "/namespaces/{namespace}" if resource.namespaced else ""
        collection = f"{resource.root}{inside}/{resource.plural}"
        found.append((collection, _on_collection(resource, scope)))
        found.append((collection + "/{name}", _on_object(resource, scope, "")))
        if resource.status:
            found.append((collection + "/{name}/status", _on_object(resource, scope, "Status")))
        if resource.namespaced:
            everywhere = _Operation(
                resource,
                "list",
                _id(resource, "list", "") + "ForAllNamespaces",
                answer=resource.schema + "List",
                parameters=_LISTING,
            )
            found.append((f"{resource.root}/{resource.plural}", {"get": everywhere}))
        found += _watches(resource, scope)
    return sorted(found, key=lambda item: item[0])


def _watches(resource: Resource, scope: str) -> list[tuple[str, dict[str, _Operation]]]:
    """The old way to watch, by a prefix of the path."""
    inside = "/namespaces/{namespace}" if resource.namespaced else ""
    places = [
        (f"{inside}/{resource.plural}", "watchlist", f"{scope}{resource.kind}List"),
        (f"{inside}/{resource.plural}/{{name}}", "watch", f"{scope}{resource.kind}"),
    ]
    if resource.namespaced:
        name = f"{resource.kind}ListForAllNamespaces"
        places.append((f"/{resource.plural}", "watchlist", name))
    return [
        (
            f"{resource.root}/watch{path}",
            {
                "get": _Operation(
                    resource,
                    action,
                    _id(resource, "watch", name, kind=""),
                    answer=_META + "WatchEvent",
                    parameters=_LISTING,
                )
            },
        )
        for path, action, name in places
    ]


def _on_collection(resource: Resource, scope: str) -> dict[str, _Operation]:
    schema = resource.schema
    return {
        "get": _Operation(
            resource,
            "list",
            _id(resource, "list", scope),
            answer=schema + "List",
            parameters=_LISTING,
        ),
        "post": _Operation(
            resource,
            "post",
            _id(resource, "create", scope),
            answer=schema,
            codes=(201,),
            parameters=_WRITING,
            body=schema,
        ),
        "delete": _Operation(
            resource,
            "deletecollection",
            _id(resource, "deleteCollection", scope),
            answer=schema + "List",
            parameters=tuple(dict((*_LISTING[1:7], *_DELETING)).items()),
            body=_META + "DeleteOptions",
        ),
    }


def _on_object(resource: Resource, scope: str, part: str) -> dict[str, _Operation]:
    schema = resource.schema
    operations = {
        "get": _Operation(resource, "get", _id(resource, "read", scope) + part, answer=schema),
        "put": _Operation(
            resource,
            "put",
            _id(resource, "replace", scope) + part,
            answer=schema,
            parameters=_WRITING,
            body=schema,
        ),
        "patch": _Operation(
            resource,
            "patch",
            _id(resource, "patch", scope) + part,
            answer=schema,
            codes=(200, 201),
            parameters=_PATCHING,
            body=_META + "Patch",
        ),
    }
    if not part:
        operations["delete"] = _Operation(
            resource,
            "delete",
            _id(resource, "delete", scope),
            answer=_META + "Status",
            codes=(200, 202),
            parameters=_DELETING,
            body=_META + "DeleteOptions",
        )
    return operations


def _id(resource: Resource, verb: str, scope: str, *, kind: str | None = None) -> str:
    words = (resource.group.partition(".")[0] or "core").capitalize()
    noun = resource.kind if kind is None else kind
    return f"{verb}{words}{resource.version.capitalize()}{scope}{noun}"


def _operation_v3(operation: _Operation) -> Json:
    def content(name: str) -> Json:
        schema = {"$ref": f"#/components/schemas/{name}"}
        return {media: {"schema": schema} for media in MEDIA}

    body: Json = {
        **operation.common(),
        "parameters": [_parameter_v3(n, text, "query") for n, text in operation.parameters],
        "responses": {
            **{
                str(code): {"description": _DESCRIBED[code], "content": content(operation.answer)}
                for code in operation.codes
            },
            **{
                str(code): {"description": _FAILURES[code], "content": content(_STATUS)}
                for code in operation.failures
            },
        },
    }
    if operation.body:
        schema = {"$ref": f"#/components/schemas/{operation.body}"}
        body["requestBody"] = {
            "content": {
                media: {"schema": schema} for media in (PATCHES if operation.patch else MEDIA)
            }
        }
    return body


def _operation_v2(operation: _Operation) -> Json:
    parameters = [_parameter_v2(n, text, "query") for n, text in operation.parameters]
    if operation.body:
        parameters.append(
            {
                "name": "body",
                "in": "body",
                "required": operation.action in ("post", "put", "patch"),
                "schema": {"$ref": f"#/definitions/{operation.body}"},
            }
        )
    answer = {"$ref": f"#/definitions/{operation.answer}"}
    return {
        **operation.common(),
        "consumes": PATCHES if operation.patch else MEDIA,
        "produces": MEDIA,
        "schemes": ["https"],
        "parameters": parameters,
        "responses": {
            **{
                str(code): {"description": _DESCRIBED[code], "schema": answer}
                for code in operation.codes
            },
            **{
                str(code): {
                    "description": _FAILURES[code],
                    "schema": {"$ref": f"#/definitions/{_STATUS}"},
                }
                for code in operation.failures
            },
        },
    }


def _parameter_v3(name: str, description: str, place: str) -> Json:
    parameter: Json = {
        "name": name,
        "in": place,
        "description": description,
        "schema": {"type": _type(name), "uniqueItems": True},
    }
    if place == "path":
        parameter["required"] = True
    return parameter


def _parameter_v2(name: str, description: str, place: str) -> Json:
    parameter: Json = {
        "name": name,
        "in": place,
        "description": description,
        "type": _type(name),
        "uniqueItems": True,
    }
    if place == "path":
        parameter["required"] = True
    return parameter


def _type(name: str) -> str:
    if name in _INTEGERS:
        return "integer"
    return "boolean" if name in _BOOLEANS else "string"


def _closure(names: Sequence[str]) -> dict[str, Json]:
    """The definitions of the names, of their lists, and of all that they refer to."""
    waiting = [_META + name for name in ("DeleteOptions", "Patch", "Status", "WatchEvent")]
    waiting += [name + suffix for name in names for suffix in ("", "List")]
    found: dict[str, Json] = {}
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = copy.deepcopy(DEFINITIONS[name])
            waiting += _references(found[name])
    return dict(sorted(found.items()))


def _references(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        own = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
        return own + [name for value in schema.values() for name in _references(value)]
    if isinstance(schema, list):
        return [name for value in schema for name in _references(value)]
    return []


def _located(schema: Any, prefix: str) -> Any:
    """References as paths in the document."""
    if isinstance(schema, dict):
        return {
            key: prefix + value if key == "$ref" else _located(value, prefix)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [_located(value, prefix) for value in schema]
    return schema


def _downgraded(schema: Any) -> Any:
    """Swagger 2.0 has no oneOf, and a reference beside other keys: say it plainly."""
    if isinstance(schema, list):
        return [_downgraded(value) for value in schema]
    if not isinstance(schema, dict):
        return schema
    if "oneOf" in schema:
        kept = {key: value for key, value in schema.items() if key != "oneOf"}
        return {**kept, "type": "string", "format": "int-or-string"}
    if "allOf" in schema:
        kept = {k: v for k, v in schema.items() if k not in ("allOf", "default")}
        return {**kept, **schema["allOf"][0]}
    return {key: _downgraded(value) for key, value in schema.items()}
