"""The webhooks of the cluster's configurations, and which of them a request concerns. Pure.

`admissionregistration.k8s.io/v1`; k8s.io/apiserver `pkg/admission/plugin/webhook`. What a webhook
says of a request in CEL (`matchConditions`) is judged in `conditions`.
"""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from apiserver.api import builtin, status
from apiserver.auth.attributes import Attributes
from apiserver.auth.trust import Pool
from policy import Operator, Requirement, Selector

DEFAULT_TIMEOUT = 10.0  # seconds
EVERYTHING = Selector()

Json = Mapping[str, Any]


class Rule(NamedTuple):
    """What a webhook wants to see; a `*` stands for anything."""

    operations: frozenset[str]
    groups: frozenset[str]
    versions: frozenset[str]
    resources: frozenset[str]
    scope: str

    def covers(self, operation: str, wanted: Attributes) -> bool:
        scopes = ("*", "Namespaced" if wanted.namespace else "Cluster")
        names = {wanted.resource, f"{wanted.resource}/*", "*", "*/*"}
        if below := wanted.subresource:
            names = {f"{wanted.resource}/{below}", f"{wanted.resource}/*", f"*/{below}", "*/*"}
        return (
            not self.operations.isdisjoint({operation, "*"})
            and not self.groups.isdisjoint({wanted.group, "*"})
            and not self.versions.isdisjoint({wanted.version, "*"})
            and not self.resources.isdisjoint(names)
            and self.scope in scopes
        )


@dataclass(frozen=True, slots=True)
class Webhook:
    """One webhook of a configuration. `timeout` is in seconds; `authority` is PEM.

    `fail` is whether a request is refused where the webhook cannot be asked; `reinvoke` whether it
    wants to see an object again that others changed after it. One that is `broken`, for the reason
    there, concerns everything and can be asked nothing: it may have been there to refuse.
    `conditions` are expressions that have to hold as well.
    """

    name: str
    configuration: str
    url: str
    authority: str
    rules: tuple[Rule, ...]
    namespaces: Selector
    objects: Selector
    fail: bool
    timeout: float
    reinvoke: bool
    side_effects: bool
    conditions: tuple[str, ...] = ()
    broken: str = ""

    def concerns(
        self,
        operation: str,
        wanted: Attributes,
        namespace: Mapping[str, str] | None,
        objects: Iterable[Json | None],
    ) -> bool:
        """Whether it is to be asked; by the labels of the namespace and of either object.

        404 where it is for the namespace to tell, and there is none.
        """
        return bool(self.broken) or (
            any(found.covers(operation, wanted) for found in self.rules)
            and any(self.objects.matches(labels_of(obj)) for obj in objects if obj is not None)
            and selects(self.namespaces, wanted, namespace)
        )


def parse(configuration: Json) -> list[Webhook]:
    """The webhooks of a configuration, in its order."""
    owner = str((configuration.get("metadata") or {}).get("name"))
    return [_understood(owner, found) for found in configuration.get("webhooks") or ()]


def _understood(owner: str, found: Json) -> Webhook:
    name, fail = str(found.get("name")), found.get("failurePolicy") != "Ignore"
    try:
        return _webhook(owner, name, found, fail=fail)
    except (ValueError, TypeError, AttributeError) as error:
        return Webhook(
            name=name,
            configuration=owner,
            url="",
            authority="",
            rules=(),
            namespaces=Selector(),
            objects=Selector(),
            fail=fail,
            timeout=1.0,
            reinvoke=False,
            side_effects=False,
            broken=str(error),
        )


def _webhook(owner: str, name: str, found: Json, *, fail: bool) -> Webhook:
    client = found.get("clientConfig") or {}
    try:
        # Text around the certificates may be in any encoding.
        bundle = base64.b64decode(client.get("caBundle") or "", validate=True)
        authority = Pool.of(bundle.decode("latin-1")).pem
    except ValueError as error:
        raise ValueError(f"caBundle: {error}") from error
    return Webhook(
        name=name,
        configuration=owner,
        url=_url(client),
        authority=authority,
        rules=tuple(map(rule, found.get("rules") or ())),
        namespaces=selector(found.get("namespaceSelector")),
        objects=selector(found.get("objectSelector")),
        fail=fail,
        timeout=float(found.get("timeoutSeconds") or DEFAULT_TIMEOUT),
        reinvoke=found.get("reinvocationPolicy") == "IfNeeded",
        side_effects=found.get("sideEffects") not in ("None", "NoneOnDryRun"),
        conditions=conditions(found),
    )


def conditions(found: Json) -> tuple[str, ...]:
    """The expressions of `matchConditions`."""
    return tuple(str(item.get("expression")) for item in found.get("matchConditions") or ())


def _url(client: Json) -> str:
    if client.get("url"):
        return str(client["url"])
    service = client.get("service") or {}
    host = f"{service.get('name')}.{service.get('namespace')}.svc"
    path = str(service.get("path") or "/")
    return f"https://{host}:{service.get('port') or 443}/{path.lstrip('/')}"


def rule(found: Json) -> Rule:
    return Rule(
        frozenset(found.get("operations") or ()),
        frozenset(found.get("apiGroups") or ()),
        frozenset(found.get("apiVersions") or ()),
        frozenset(found.get("resources") or ()),
        str(found.get("scope") or "*"),
    )


def selector(found: Json | None) -> Selector:
    """A LabelSelector; none at all selects everything. `ValueError` for an unknown operator."""
    found = found or {}
    wanted = [
        Requirement(key, Operator.IN, (value,))
        for key, value in (found.get("matchLabels") or {}).items()
    ]
    wanted += [
        Requirement(
            str(item.get("key")),
            Operator(item.get("operator")),
            tuple(sorted(item.get("values") or ())),
        )
        for item in found.get("matchExpressions") or ()
    ]
    return Selector(tuple(sorted(wanted)))


def selects(chosen: Selector, wanted: Attributes, labels: Mapping[str, str] | None) -> bool:
    """By the labels of the request's namespace, None where that is gone: 404, as upstream.

    What chooses none in particular needs no namespace.
    """
    if not wanted.namespace or chosen == EVERYTHING:
        return True
    if labels is None:
        raise status.not_found(builtin.NAMESPACES, wanted.namespace)
    return chosen.matches(labels)


def labels_of(obj: Json) -> Mapping[str, str]:
    found: Mapping[str, str] = (obj.get("metadata") or {}).get("labels") or {}
    return found
