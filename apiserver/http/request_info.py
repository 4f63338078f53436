"""What a URL and method ask for: resource, namespace, name, subresource and verb.

Pure; k8s.io/apiserver `pkg/endpoints/request/requestinfo.go` in small. The resource app calls it
first on every request. It takes every spelling of the path that the post of 2016 shows: a trailing
slash, no `/apis` in front, `namespace` for `namespaces`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from apiserver.api import builtin, status
from apiserver.api.resource import Resource

METHODS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch"}
ON_COLLECTION = frozenset({"list", "watch", "create", "deletecollection"})


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """`namespace` is empty for cluster-scoped resources and for all namespaces at once."""

    verb: str
    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def watch_wanted(query: Mapping[str, str]) -> bool:
    """Any value but 0 and false counts as true (`pkg/runtime/conversion.go`)."""
    value = query.get("watch")
    return value is not None and value.lower() not in ("0", "false")


def parse(
    method: str, path: str, query: Mapping[str, str], resources: Sequence[Resource]
) -> RequestInfo:
    """404 for a path that names nothing served here, 405 for a method it does not take."""
    parts = path.strip("/").split("/")
    if "" in parts:
        raise status.unknown_path()
    if parts[0] == builtin.NETWORKPOLICYS.group:
        parts.insert(0, "apis")
    if parts[0] == "api":
        parts.insert(1, "")
    group, version, *rest = (*parts[1:3], *parts[3:])
    served = {r.plural: r for r in resources if r.group == group and r.version == version}
    watching = rest[:1] == ["watch"]
    if watching:
        rest = rest[1:]
    resource, namespace, name, subresource = _target(rest, served)
    if name or watching:
        verb = _verb_on_object(method, watching)
    else:
        verb = _verb_on_collection(method, query)
    if watching and name:
        return RequestInfo("watch", resource, namespace, name)
    if verb in ("create", "deletecollection") and resource.namespaced and not namespace:
        raise status.method_not_allowed()
    if subresource and verb not in ("get", "update", "patch"):
        raise status.method_not_allowed()
    return RequestInfo(verb, resource, namespace, name, subresource)


def _target(rest: list[str], served: Mapping[str, Resource]) -> tuple[Resource, str, str, str]:
    namespace = ""
    if rest[:1] == ["namespace"]:
        rest = ["namespaces", *rest[1:]]
    if rest[:1] == ["namespaces"] and len(rest) >= 3 and rest[2] in served:
        namespace, rest = rest[1], rest[2:]
    resource = served.get(rest[0]) if rest else None
    if resource is None or len(rest) > 3 or (namespace and not resource.namespaced):
        raise status.unknown_path()
    if resource.namespaced and not namespace and len(rest) > 1:
        raise status.unknown_path()
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    if subresource and not (subresource == "status" and resource.status):
        raise status.unknown_path()
    return resource, namespace, name, subresource


def _verb_on_object(method: str, watching: bool) -> str:
    if watching and method == "GET":
        return "watch"
    if method == "DELETE" and not watching:
        return "delete"
    verb = METHODS.get(method)
    if verb is None or verb == "create" or watching:
        raise status.method_not_allowed()
    return verb


def _verb_on_collection(method: str, query: Mapping[str, str]) -> str:
    if method in ("GET", "HEAD"):
        return "watch" if watch_wanted(query) else "list"
    if method == "POST":
        return "create"
    if method == "DELETE":
        return "deletecollection"
    raise status.method_not_allowed()
