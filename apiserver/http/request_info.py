"""What a URL and method ask for: resource, namespace, name, subresource and verb.

Pure; k8s.io/apiserver `pkg/endpoints/request/requestinfo.go` in small. The envelope calls it first
on every request. It takes every spelling of the path that the post of 2016 shows: a trailing
slash, no `/apis` in front, `namespace` for `namespaces`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from apiserver.api import builtin, status
from apiserver.api.resource import Resource

READS = {"GET": "list", "HEAD": "list"}
ON_COLLECTION = {**READS, "POST": "create", "DELETE": "deletecollection"}
ON_SUBRESOURCE = {"GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch"}
ON_OBJECT = {**ON_SUBRESOURCE, "DELETE": "delete"}
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})

Served = Mapping[tuple[str, str], Mapping[str, Resource]]


class RequestInfo(NamedTuple):
    """`namespace` is empty for cluster-scoped resources and for all namespaces at once.

    `prefixed` where `/watch/` in the path says what `watch=1` says.
    """

    verb: str
    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    prefixed: bool = False

    @property
    def scope(self) -> str:
        """What metrics call it: resource, namespace or cluster."""
        if self.name or self.verb == "create":
            return "resource"
        return "namespace" if self.namespace else "cluster"


def by_version(resources: Sequence[Resource]) -> Served:
    """The resources by group version and plural."""
    table: dict[tuple[str, str], dict[str, Resource]] = {}
    for resource in resources:
        table.setdefault((resource.group, resource.version), {})[resource.plural] = resource
    return table


def watch_wanted(query: Mapping[str, str]) -> bool:
    """Any value but 0 and false counts as true (`pkg/runtime/conversion.go`)."""
    value = query.get("watch")
    return value is not None and value.lower() not in ("0", "false")


def parse(method: str, path: str, query: Mapping[str, str], served: Served) -> RequestInfo | None:
    """The request for a resource; None for every other path, discovery among them.

    404 for what does not exist below a group that is served, 405 for a method it does not take.
    """
    parts = path.strip("/").split("/")
    if parts[0] == builtin.NETWORKPOLICYS.group:
        parts.insert(0, "apis")
    elif parts[0] == "api":
        parts.insert(1, "")
    if parts[0] not in ("api", "apis") or len(parts) < 3:
        return None
    group, version, *rest = parts[1:]
    resources = served.get((group, version))
    if resources is None:
        if version and any(known == group for known, _ in served):
            raise status.unknown_path()
        return None
    if not rest:
        return None
    watching = rest[0] == "watch"
    resource, namespace, name, subresource = _target(rest[watching:], resources)
    if watching:
        verbs = {"GET": "watch"}
    elif name:
        verbs = ON_SUBRESOURCE if subresource else ON_OBJECT
    else:
        verbs = READS if resource.namespaced and not namespace else ON_COLLECTION
    verb = verbs.get(method)
    if verb is None:
        raise status.method_not_allowed(", ".join(verbs))
    if verb == "list" and method == "GET" and watch_wanted(query):
        # Nobody reads the stream of a HEAD: that gets the headers of the list.
        verb = "watch"
    return RequestInfo(verb, resource, namespace, name, subresource, watching)


def _target(rest: list[str], served: Mapping[str, Resource]) -> tuple[Resource, str, str, str]:
    namespace = ""
    if rest[:1] == ["namespace"]:
        rest = ["namespaces", *rest[1:]]
    if rest[:1] == ["namespaces"] and len(rest) >= 3 and rest[2] in served:
        # An empty namespace stands for all of them, as clients without one write it.
        namespace, rest = rest[1], rest[2:]
    resource = served.get(rest[0]) if rest else None
    if resource is None or len(rest) > 3 or "" in rest or (namespace and not resource.namespaced):
        raise status.unknown_path()
    if resource.namespaced and not namespace and len(rest) > 1:
        raise status.unknown_path()
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    if subresource and not (subresource == "status" and resource.status):
        raise status.unknown_path()
    return resource, namespace, name, subresource
