"""Server-side apply: merge a configuration into an object, for the fields it owns or may take.

k8s.io/apimachinery `pkg/util/managedfields` and structured-merge-diff `merge/update.go`.
"""

import json

from apiserver.api.managedfields import conflict, managers, typed
from apiserver.api.managedfields.conflict import Conflicts
from apiserver.api.managedfields.fieldpath import EMPTY, Set
from apiserver.api.managedfields.managers import APPLY, OWNERLESS, UPDATE, Entry, Manager, Origin
from apiserver.api.managedfields.typed import Json
from apiserver.api.metadata import ANNOTATIONS_LIMIT

KUBECTL = "kubectl"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
BEFORE = "before-first-apply"


def apply(live: Json, applied: Json, origin: Origin, *, force: bool) -> Json:
    """The object after the apply, its managedFields in it. `Conflicts` where others own a field.

    `live` is empty where the object does not exist yet. As upstream, kubectl may take over what it
    once applied on the client side, and its annotation of that is kept true.
    """
    present = managers.bare(live)
    entries = dict(managers.live_entries(live))
    if live and not entries:
        entries = _before_first(present, origin)
    try:
        new, entries = _applied(present, applied, entries, origin, force)
    except Conflicts as conflicts:
        left = conflicts
        if origin.manager == KUBECTL:
            left = conflicts.without(_last_applied(present, origin))
        if left.disputed:
            raise left from None
        new, entries = _applied(present, applied, entries, origin, force=True)
    if origin.manager == KUBECTL and _annotation(present):
        new = _noted(new, applied)
    return {**new, "metadata": {**new["metadata"], "managedFields": managers.encode(entries)}}


def _applied(
    live: Json, applied: Json, entries: dict[Manager, Entry], origin: Origin, force: bool
) -> tuple[Json, dict[Manager, Entry]]:
    schema, me = origin.definition, origin.identity(APPLY)
    former = entries
    last, time = (entries[me].fields, entries[me].time) if me in entries else (EMPTY, "")
    fields = typed.field_set(applied, schema).without(origin.reset)
    entries = {**entries, me: Entry(fields, origin.api_version, time)}
    new = _pruned(typed.merge(live, applied, schema), last, entries, origin)
    difference = typed.compare(live, new, schema).without(origin.reset)
    changed = difference.added | difference.modified
    # What a value of another shape displaces is disputed as much as what it changes.
    displaced = difference.removed - difference.removed.without(difference.modified)
    conflicts = conflict.found(entries, changed | displaced, me)
    if conflicts.disputed and not force:
        raise conflicts
    entries = managers.taken(entries, conflicts.fields | difference.removed, keep=me)
    entries.pop(me, None)
    if fields := fields - OWNERLESS:
        entries[me] = Entry(fields, origin.api_version, time)
        if entries != former or changed or difference.removed:
            entries[me] = Entry(fields, origin.api_version, origin.now)
    return new, entries


def _pruned(merged: Json, last: Set, entries: dict[Manager, Entry], origin: Origin) -> Json:
    """Without what this manager applied before and no longer does, where nobody else owns it."""
    if not last:
        return merged
    schema = origin.definition

    def fields(obj: Json) -> Set:
        return typed.with_parents(typed.field_set(obj, schema), schema)

    def without(paths: Set) -> Json:
        left: Json = typed.remove(merged, paths, schema)
        return left

    mine = typed.with_parents(last, schema)
    owned = EMPTY
    for entry in entries.values():
        owned = owned | entry.fields
    owned = typed.with_parents(owned, schema)
    all_fields = fields(merged)
    kept = without(all_fields - (fields(without(mine)) | owned))
    return without((all_fields - fields(kept)) & mine)


def _before_first(live: Json, origin: Origin) -> dict[Manager, Entry]:
    """An object that nobody has tracked: all of it belongs to whoever came before."""
    everything = typed.compare({}, live, origin.definition).added - OWNERLESS
    if not everything:
        return {}
    manager = Manager(BEFORE, UPDATE, origin.api_version)
    return {manager: Entry(everything, origin.api_version, origin.now)}


def _last_applied(live: Json, origin: Origin) -> Set:
    """The fields that client-side apply set and that still have that value."""
    try:
        last = json.loads(_annotation(live) or "{}")
    except ValueError:
        return EMPTY
    if not isinstance(last, dict):
        return EMPTY
    difference = typed.compare(last, live, origin.definition)
    changed = difference.modified | difference.added | difference.removed
    return typed.field_set(last, origin.definition) - changed


def _noted(new: Json, applied: Json) -> Json:
    """Keep the annotation of client-side apply equal to what was applied."""
    meta = dict(applied["metadata"])
    notes = {k: v for k, v in (meta.get("annotations") or {}).items() if k != LAST_APPLIED}
    if "annotations" in meta:
        meta["annotations"] = notes
    text = json.dumps({**applied, "metadata": meta}, separators=(",", ":"), ensure_ascii=False)
    annotations = {**new["metadata"].get("annotations", {}), LAST_APPLIED: text + "\n"}
    if sum(len(k.encode()) + len(v.encode()) for k, v in annotations.items()) > ANNOTATIONS_LIMIT:
        del annotations[LAST_APPLIED]
    return {**new, "metadata": {**new["metadata"], "annotations": annotations}}


def _annotation(obj: Json) -> str:
    meta = obj.get("metadata")
    annotations = meta.get("annotations") if isinstance(meta, dict) else None
    found = annotations.get(LAST_APPLIED) if isinstance(annotations, dict) else None
    return found if isinstance(found, str) else ""
