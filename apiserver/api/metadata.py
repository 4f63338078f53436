"""The rules for object metadata: k8s.io/apimachinery `pkg/api/validation/objectmeta.go`."""

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from apiserver.api.status import Cause
from policy.labels import domain_errors, label_key_errors, label_value_errors

BODY_LIMIT = 3 * 1024 * 1024  # bytes of a request body, as upstream's MaxRequestBodyBytes
ANNOTATIONS_LIMIT = 256 * 1024  # bytes of all annotation keys and values
NAME_BASE = 58  # of 63 characters, five are drawn
NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # no vowels: no words by chance
OWN_FINALIZERS = ("orphan", "foregroundDeletion")  # the garbage collector's, without a domain
FIXED = ("uid", "deletionTimestamp", "deletionGracePeriodSeconds")
EVENT_OWNER = ("v1", "Event")


def now_text(clock: float) -> str:
    """A time in seconds since the epoch as metadata carries it."""
    return _second(int(clock))


@lru_cache(maxsize=4)
def _second(clock: int) -> str:
    return datetime.fromtimestamp(clock, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def generate_name(base: str, rand: random.Random) -> str:
    return base[:NAME_BASE] + "".join(rand.choices(NAME_LETTERS, k=5))


def validate_metadata(meta: Mapping[str, Any], *, namespaced: bool) -> list[Cause]:
    """Every error of a new object's metadata, one cause each."""
    causes = _name(meta)
    if namespaced and not meta.get("namespace"):
        causes.append(_required("metadata.namespace", ""))
    causes += _labels(meta.get("labels"))
    causes += _annotations(meta.get("annotations"))
    causes += _finalizers(meta.get("finalizers"))
    return causes + _owners(meta.get("ownerReferences"))


def warn(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """What a client should know of metadata that is accepted; said once, when it is written."""
    known = (*(old.get("finalizers") or ()), *OWN_FINALIZERS)
    return [
        f'metadata.finalizers: "{name}": prefer a domain-qualified finalizer name including a path'
        " (/) to avoid accidental conflicts with other finalizer writers"
        for name in new.get("finalizers") or ()
        if "/" not in name and name not in known
    ]


def dedup_owners(meta: dict[str, Any]) -> list[str]:
    """Keep the first reference of each UID, in place; the warning that it takes."""
    owners = meta.get("ownerReferences")
    if not isinstance(owners, list):
        return []
    kept: dict[Any, Any] = {}
    doubled = []
    for owner in owners:
        uid = owner.get("uid") if isinstance(owner, Mapping) else None
        if not isinstance(uid, str):
            return []
        if uid in kept:
            doubled.append(uid)
        kept.setdefault(uid, owner)
    if not doubled:
        return []
    meta["ownerReferences"] = list(kept.values())
    uids = ", ".join(dict.fromkeys(doubled))
    return [
        ".metadata.ownerReferences contains duplicate entries; API server dedups owner references"
        " in 1.20+, and may reject such requests as early as 1.24; please fix your requests;"
        f" duplicate UID(s) observed: {uids}"
    ]


def validate_metadata_update(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[Cause]:
    """What an update may not do to metadata: change what is fixed, or hold what is going."""
    fixed = [
        _invalid(f"metadata.{name}", new[name], "field is immutable")
        for name in FIXED
        if new.get(name) is not None and new[name] != old.get(name)
    ]
    return fixed + _new_finalizers(new, old)


def _new_finalizers(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[Cause]:
    if not old.get("deletionTimestamp"):
        return []
    added = [f for f in new.get("finalizers") or () if f not in (old.get("finalizers") or ())]
    if not added:
        return []
    shown = ", ".join(f'"{name}"' for name in added)
    return [
        Cause(
            "FieldValueForbidden",
            "Forbidden: no new finalizers can be added if the object is being deleted, found new"
            f" finalizers []string{{{shown}}}",
            "metadata.finalizers",
        )
    ]


def _name(meta: Mapping[str, Any]) -> list[Cause]:
    name, base = meta.get("name"), meta.get("generateName")
    causes = []
    if base:
        if not isinstance(base, str):
            return [_type("metadata.generateName", base, "a string")]
        # The last character may be one that only a suffix makes valid.
        trial = base[:-1] + "a" if base.endswith("-") else base
        causes += [_invalid("metadata.generateName", base, why) for why in domain_errors(trial)]
    if not name:
        return causes or [_required("metadata.name", "name or generateName is required")]
    if not isinstance(name, str):
        return [_type("metadata.name", name, "a string")]
    return causes + [_invalid("metadata.name", name, why) for why in domain_errors(name)]


def _labels(labels: Any) -> list[Cause]:
    if labels is None:
        return []
    if not isinstance(labels, Mapping):
        return [_type("metadata.labels", labels, "a map of strings")]
    causes = []
    for key, value in labels.items():
        causes += [_invalid("metadata.labels", key, why) for why in label_key_errors(key)]
        if not isinstance(value, str):
            causes.append(_type(f"metadata.labels.{key}", value, "a string"))
        else:
            causes += [_invalid("metadata.labels", value, why) for why in label_value_errors(value)]
    return causes


def _annotations(annotations: Any) -> list[Cause]:
    field = "metadata.annotations"
    if annotations is None:
        return []
    if not isinstance(annotations, Mapping):
        return [_type(field, annotations, "a map of strings")]
    causes, size = [], 0
    for key, value in annotations.items():
        causes += [_invalid(field, key, why) for why in label_key_errors(key.lower())]
        if not isinstance(value, str):
            causes.append(_type(f"{field}.{key}", value, "a string"))
        else:
            size += len(key.encode()) + len(value.encode())
    if size > ANNOTATIONS_LIMIT:
        text = f"Too long: may not be more than {ANNOTATIONS_LIMIT} bytes"
        causes.append(Cause("FieldValueTooLong", text, field))
    return causes


def _finalizers(finalizers: Any) -> list[Cause]:
    field = "metadata.finalizers"
    if finalizers is None:
        return []
    if not isinstance(finalizers, list) or not all(isinstance(f, str) for f in finalizers):
        return [_type(field, finalizers, "a list of strings")]
    return [_invalid(field, name, why) for name in finalizers for why in label_key_errors(name)]


def _owners(owners: Any) -> list[Cause]:
    field = "metadata.ownerReferences"
    if owners is None:
        return []
    if not isinstance(owners, list) or not all(isinstance(o, Mapping) for o in owners):
        return [_type(field, owners, "a list of objects")]
    causes = []
    for owner in owners:
        for part in ("apiVersion", "kind", "name", "uid"):
            if not isinstance(owner.get(part), str) or not owner[part]:
                noun = "version" if part == "apiVersion" else part
                causes.append(
                    _invalid(f"{field}.{part}", owner.get(part) or "", f"{noun} must not be empty")
                )
        if (owner.get("apiVersion"), owner.get("kind")) == EVENT_OWNER:
            causes.append(
                _invalid(field, "Event", "/v1, Kind=Event is disallowed from being an owner")
            )
    controllers = [o for o in owners if o.get("controller") is True]
    if len(controllers) > 1:
        first, second = controllers[:2]
        causes.append(
            _invalid(
                field,
                "",
                'Only one reference can have Controller set to true. Found "true" in references'
                f" for {first.get('kind')}/{first.get('name')} and"
                f" {second.get('kind')}/{second.get('name')}",
            )
        )
    return causes


def _required(field: str, why: str) -> Cause:
    return Cause("FieldValueRequired", f"Required value: {why}".rstrip(": "), field)


def _invalid(field: str, value: object, why: str) -> Cause:
    return Cause("FieldValueInvalid", f'Invalid value: "{value}": {why}', field)


def _type(field: str, value: object, wanted: str) -> Cause:
    shown = str(value)[:100]
    return Cause("FieldValueTypeInvalid", f'Invalid value: "{shown}": must be {wanted}', field)
