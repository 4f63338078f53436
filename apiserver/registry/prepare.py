"""What a write makes of an object: what the server owns is filled in, what is fixed is kept.

Pure; the writer calls it between reading and storing. The rules are those of k8s.io/apiserver's
`BeforeCreate` and `BeforeUpdate` (`pkg/registry/rest`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from apiserver.api import managedfields, metadata, status, strict
from apiserver.api.identity import new_uid
from apiserver.api.managedfields import fieldpath, typed
from apiserver.api.schemas import DEFINITIONS
from apiserver.api.status import Cause
from apiserver.registry.strategy import Json, Strategy

NEVER_SENT = (
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "resourceVersion",
)


def fill(
    strategy: Strategy,
    namespace: str,
    obj: Json,
    origin: managedfields.Origin | None,
    *,
    now: str,
) -> None:
    """Set what the server owns on a new object, in place, whatever the client sent.

    The fields come to belong to the manager of `origin`; None leaves managedFields as they are.
    """
    resource = strategy.resource
    meta = obj["metadata"]
    if resource.namespaced:
        meta["namespace"] = namespace
    for name in NEVER_SENT:
        meta.pop(name, None)
    meta["uid"] = new_uid()
    meta["creationTimestamp"] = now
    if strategy.generation:
        meta["generation"] = 1
    if resource.status:
        obj.pop("status", None)
    obj["apiVersion"], obj["kind"] = resource.api_version, resource.kind
    if origin is not None:
        set_managed(meta, managedfields.track({}, obj, origin))
    strategy.prepare(obj)


SPOILT = (
    ".metadata.managedFields was in an invalid state after admission; this could be caused by an"
    " outdated mutating admission controller; please fix your requests: failed to validate managed"
    " fields: "
)
OWNED = ("name", "generateName", "namespace", "uid", "creationTimestamp", "generation")


def owned(strategy: Strategy, wanted: Json, filled: Json) -> Json:
    """An object as webhooks want it, but for what is the server's and what no schema knows."""
    meta, was = {**wanted["metadata"]}, filled["metadata"]
    for name in (*OWNED, *NEVER_SENT):
        if name in was:
            meta[name] = was[name]
        else:
            meta.pop(name, None)
    types = {"apiVersion": filled["apiVersion"], "kind": filled["kind"]}
    made = {**wanted, **types, "metadata": meta}
    if strategy.resource.status:
        made.pop("status", None)
        if "status" in filled:
            made["status"] = filled["status"]
    return known(strategy, made)


def recorded(wanted: Json, before: Json) -> tuple[Json, list[str]]:
    """An object as webhooks want it, with a record of managers that can be read; the warning.

    What they change belongs to nobody: the record is made before they are asked
    (`handlers/fieldmanager/admission.go`).
    """
    meta, was = wanted["metadata"], before["metadata"].get("managedFields")
    why = managedfields.problem(meta.get("managedFields"))
    meta = {**meta}
    set_managed(meta, was if why else meta.get("managedFields"))
    return {**wanted, "metadata": meta}, [SPOILT + why] if why else []


def known(strategy: Strategy, obj: Json) -> Json:
    """The object in canonical spelling, without what no schema knows."""
    obj, _ = strategy.normalise(obj)
    return strict.without_unknown(obj, strategy.resource.schema, keep=strategy.closed)


def merge(strategy: Strategy, name: str, old: Json, new: Json, subresource: str) -> Json:
    """What an update may change, with what it may not taken from the old object. 422."""
    resource = strategy.resource
    if subresource == "status":
        merged = copied(old)
        merged.pop("status", None)
        if new.get("status") is not None:
            merged["status"] = new["status"]
            if causes := _misshapen(merged["status"], resource.schema):
                raise invalid(strategy, name, causes)
        merged["metadata"].pop("resourceVersion", None)
        set_managed(merged["metadata"], new["metadata"].get("managedFields"))
        return merged
    meta, was = new["metadata"], old["metadata"]
    fixed = metadata.validate_metadata_update(meta, was)
    for owned in (
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
    ):
        if owned in was:
            meta[owned] = was[owned]
        else:
            meta.pop(owned, None)
    for dropped in ("resourceVersion", "selfLink"):
        meta.pop(dropped, None)
    set_managed(meta, meta.get("managedFields"))
    new["apiVersion"], new["kind"] = resource.api_version, resource.kind
    if resource.status:
        new.pop("status", None)
        if "status" in old:
            new["status"] = old["status"]
    causes = [
        *metadata.validate_metadata(meta, namespaced=resource.namespaced),
        *fixed,
        *strategy.validate(new),
    ]
    if causes:
        raise invalid(strategy, name, causes)
    if strategy.generation and _content(new) != _content(old):
        meta["generation"] = int(was.get("generation") or 0) + 1
    return new


def _misshapen(found: Any, schema: str) -> list[Cause]:
    """What of a status is of another type than its schema says."""
    wanted = DEFINITIONS[schema]["properties"]["status"]
    return [
        Cause(
            "FieldValueTypeInvalid",
            f"Invalid value: {problem.why}",
            fieldpath.text(problem.path).lstrip("."),
        )
        for problem in typed.problems(found, wanted, ("f:status",))
    ]


def unversioned(obj: Json) -> Json:
    """The object without its resourceVersion."""
    meta = {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}
    return {**obj, "metadata": meta}


def gone(strategy: Strategy, obj: Mapping[str, Any]) -> bool:
    """Whether an update let go of the last thing that held a terminating object."""
    meta = obj["metadata"]
    held = meta.get("finalizers") or strategy.linger(obj)
    return bool(meta.get("deletionTimestamp")) and not held


def warnings(strategy: Strategy, new: Json, old: Json) -> list[str]:
    """What a client is told of an object that is accepted."""
    noted = metadata.warn(new["metadata"], old["metadata"])
    return [*noted, *strategy.warn(new)]


def invalid(strategy: Strategy, name: str, causes: Sequence[Cause]) -> status.StatusError:
    return status.invalid(strategy.resource.kind, strategy.resource.group, name, causes)


def copied(obj: Mapping[str, Any]) -> Json:
    copied: Json = orjson.loads(orjson.dumps(obj))
    return copied


def set_managed(meta: Json, entries: Any) -> None:
    """Nobody owning anything is said by no list at all."""
    if entries:
        meta["managedFields"] = entries
    else:
        meta.pop("managedFields", None)


def _content(obj: Mapping[str, Any]) -> dict[str, Any]:
    """What metadata.generation counts the changes of."""
    return {
        key: value
        for key, value in obj.items()
        if key not in ("metadata", "status", "apiVersion", "kind")
    }
