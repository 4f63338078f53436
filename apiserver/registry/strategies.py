"""The table of what the server serves: a strategy for each resource.

`networkpolicys` is the product; the others make standalone mode a world of its own, just enough
for kubectl and the enforcer. Everything else in the server is generic over this table.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import policy
from apiserver.api import builtin, status
from apiserver.api.status import Cause
from apiserver.registry.plain import is_plain
from apiserver.registry.strategy import Json, Strategy

DEFINITION = "network-policy.net.alpha.kubernetes.io"
DEFINITION_VERSION = "v1alpha1"
KEPT_NAMESPACES = frozenset({"default", "kube-system", "kube-public"})


def _causes(errors: Sequence[policy.FieldError]) -> list[Cause]:
    return [Cause(error.reason, error.message, error.field) for error in errors]


def _normalise_policy(obj: Json) -> tuple[Json, Sequence[str]]:
    try:
        return policy.normalise(obj)
    except policy.InvalidPolicy as error:
        resource = builtin.NETWORKPOLICYS
        metadata = obj.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else ""
        raise status.invalid(
            resource.kind, resource.group, str(name or ""), _causes(error.errors)
        ) from error


def _validate_policy(obj: Mapping[str, Any]) -> Sequence[Cause]:
    return _causes(policy.validate(obj))


def _warn_namespace(obj: Mapping[str, Any]) -> Sequence[str]:
    metadata = obj.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    _, warning = policy.isolation(annotations)
    return (warning,) if warning else ()


def _prepare_namespace(obj: Json) -> None:
    spec = obj.get("spec")
    obj["spec"] = {**(spec if isinstance(spec, dict) else {}), "finalizers": ["kubernetes"]}
    obj["status"] = {"phase": "Active"}


def _namespace_lingers(obj: Mapping[str, Any]) -> bool:
    """Until the controller, which has emptied it, says so with an empty list.

    A client that leaves spec.finalizers out, as most manifests do, must not skip the emptying.
    """
    spec = obj.get("spec")
    released = isinstance(spec, dict) and spec.get("finalizers") == []
    return not (released and obj["metadata"].get("deletionTimestamp"))


def _terminate_namespace(obj: Json) -> None:
    obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}


def _prepare_pod(obj: Json) -> None:
    obj["status"] = {"phase": "Pending"}


def _validate_definition(obj: Mapping[str, Any]) -> Sequence[Cause]:
    """A ThirdPartyResource can define only the one API that this server is."""
    causes = []
    name = obj["metadata"].get("name", "")
    if name != DEFINITION:
        causes.append(
            Cause(
                "FieldValueNotSupported",
                f'Unsupported value: "{name}": supported values: "{DEFINITION}"'
                " (this server serves no other group)",
                "metadata.name",
            )
        )
    versions = obj.get("versions")
    if not isinstance(versions, list) or not versions:
        causes.append(
            Cause(
                "FieldValueRequired",
                f"Required value: must list the version {DEFINITION_VERSION}",
                "versions",
            )
        )
        return causes
    for index, version in enumerate(versions):
        found = version.get("name") if isinstance(version, dict) else version
        if found != DEFINITION_VERSION:
            causes.append(
                Cause(
                    "FieldValueNotSupported",
                    f'Unsupported value: "{found}": supported values: "{DEFINITION_VERSION}"',
                    f"versions[{index}].name",
                )
            )
    return causes


STRATEGIES: tuple[Strategy, ...] = (
    Strategy(
        resource=builtin.NETWORKPOLICYS,
        normalise=_normalise_policy,
        plain=is_plain,
        validate=_validate_policy,
        closed=frozenset({"spec"}),
        generation=True,
    ),
    Strategy(
        resource=builtin.NAMESPACES,
        prepare=_prepare_namespace,
        warn=_warn_namespace,
        linger=_namespace_lingers,
        terminate=_terminate_namespace,
        immortal=KEPT_NAMESPACES,
    ),
    Strategy(resource=builtin.PODS, prepare=_prepare_pod),
    Strategy(resource=builtin.EVENTS),
    Strategy(resource=builtin.THIRDPARTYRESOURCES, validate=_validate_definition),
)

# What is served in a cluster, which has the others itself.
EXTENSION = STRATEGIES[:1]
