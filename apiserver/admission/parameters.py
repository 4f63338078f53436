"""The objects of the cluster that a policy is bound to as its parameters.

k8s.io/apiserver `pkg/admission/plugin/policy/generic/policy_dispatcher.go`, `CollectParams`; the
texts are its own. They are read when a write needs them, with what the server may read: whoever
binds a policy to parameters gives it the permission.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from apiserver.cluster.client import Cluster, Refused, Unreachable

Json = dict[str, Any]


class Kind(NamedTuple):
    """Of a policy's `paramKind`."""

    version: str
    kind: str


class Reference(NamedTuple):
    """Of a binding's `paramRef`; `selector` is None where a name is meant."""

    name: str
    namespace: str
    selector: str | None
    required: bool


class Unknown(Exception):
    """They cannot be had, which is an error of the binding."""


def kind(found: Mapping[str, Any] | None) -> Kind | None:
    return Kind(str(found.get("apiVersion")), str(found.get("kind"))) if found else None


def reference(found: Mapping[str, Any] | None) -> Reference | None:
    """`ValueError` for a selector of an unknown operator."""
    if not found:
        return None
    selector = found.get("selector")
    return Reference(
        name=str(found.get("name") or ""),
        namespace=str(found.get("namespace") or ""),
        selector=None if selector is None else _text(selector),
        required=found.get("parameterNotFoundAction") != "Allow",
    )


class Parameters:
    """Where kinds are served is asked once, and again where something is missing or fails."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._served: dict[Kind, tuple[str, bool]] = {}

    async def find(
        self, wanted: Kind | None, referred: Reference | None, namespace: str
    ) -> list[Json | None]:
        """Each to be judged with; null where the policy or its binding has none. `Unknown`."""
        if wanted is None or referred is None:
            return [None]
        try:
            found = await self._read(wanted, referred, namespace)
        except (Refused, Unreachable) as error:
            self._served.pop(wanted, None)
            raise Unknown(f"{wanted.version}, Kind={wanted.kind}: {error}") from error
        if not found and referred.required:
            raise Unknown("no params found for policy binding with `Deny` parameterNotFoundAction")
        return found

    async def _read(self, wanted: Kind, referred: Reference, namespace: str) -> list[Json | None]:
        if not referred.name and referred.selector is None:
            raise Unknown("one of name or selector must be provided")
        if referred.name and referred.selector is not None:
            raise Unknown("paramRef.name and paramRef.selector are mutually exclusive")
        resource, namespaced = await self._resource(wanted)
        if referred.namespace and not namespaced:
            raise Unknown(
                "paramRef.namespace must not be provided for a cluster-scoped `paramKind`"
            )
        place = _root(wanted.version)
        if namespaced:
            place += f"/namespaces/{quote(referred.namespace or namespace, safe='')}"
        if referred.selector is not None:
            page = await self._cluster.get(f"{place}/{resource}", labelSelector=referred.selector)
            meta = {"apiVersion": wanted.version, "kind": wanted.kind}
            return [{**meta, **item} for item in page.get("items") or ()]
        try:
            return [await self._cluster.get(f"{place}/{resource}/{quote(referred.name, safe='')}")]
        except Refused as error:
            if error.code != 404:
                raise
            # Its definition may be gone, which is another thing than an object that is not there.
            self._served.pop(wanted, None)
            await self._resource(wanted)
            return []

    async def _resource(self, wanted: Kind) -> tuple[str, bool]:
        """Its name in paths, and whether it is in namespaces."""
        if wanted not in self._served:
            listed = await self._cluster.get(_root(wanted.version))
            for each in listed.get("resources") or ():
                if each.get("kind") == wanted.kind and "/" not in str(each.get("name")):
                    self._served[wanted] = str(each["name"]), each.get("namespaced") is True
                    break
            else:
                raise Unknown(f"paramKind kind `{wanted.version}, Kind={wanted.kind}` not known")
        return self._served[wanted]


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _text(selector: Mapping[str, Any]) -> str:
    """A LabelSelector, as a query has it."""
    terms = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for item in selector.get("matchExpressions") or ():
        key, values = item.get("key"), ",".join(item.get("values") or ())
        match item.get("operator"):
            case "In":
                terms.append(f"{key} in ({values})")
            case "NotIn":
                terms.append(f"{key} notin ({values})")
            case "Exists":
                terms.append(f"{key}")
            case "DoesNotExist":
                terms.append(f"!{key}")
            case other:
                raise ValueError(f"{other!r} is not a valid label selector operator")
    return ",".join(terms)
