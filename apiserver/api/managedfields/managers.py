"""The managers of an object: the entries of `managedFields` as values, and what an update does.

An entry belongs to a manager, an operation, an API version and a subresource. Whoever changes a
field by anything but an apply owns it from then on, and nobody else does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from apiserver.api import schemas
from apiserver.api.managedfields import fieldpath, typed
from apiserver.api.managedfields.fieldpath import EMPTY, Set
from apiserver.api.resource import Resource

Json = dict[str, Any]

APPLY, UPDATE = "Apply", "Update"
UPDATERS = 10  # Update entries kept apart, as upstream; the older ones become one
OLD_UPDATES = "ancient-changes"
META = "f:metadata"
OWNERLESS = fieldpath.of(
    ("f:apiVersion",),
    ("f:kind",),
    (META,),
    *(
        (META, f"f:{name}")
        for name in (
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "clusterName",
            "generation",
            "managedFields",
            "resourceVersion",
        )
    ),
)


class Manager(NamedTuple):
    """The identity of an entry; an applier is the same in every API version."""

    name: str
    operation: str
    api_version: str
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a manager owns, and since when (RFC 3339; empty: not known)."""

    fields: Set
    api_version: str
    time: str = ""


Entries = Mapping[Manager, Entry]


class Origin(NamedTuple):
    """Who writes what kind of object, through which subresource, and when (RFC 3339)."""

    manager: str
    resource: Resource
    now: str
    subresource: str = ""

    @property
    def api_version(self) -> str:
        return self.resource.api_version

    @property
    def definition(self) -> Json:
        return schemas.DEFINITIONS[self.resource.schema]

    @property
    def reset(self) -> Set:
        """What this way of writing cannot change, so that nobody comes to own it by it."""
        if not self.resource.status:
            return EMPTY
        fields = self.definition["properties"]
        if self.subresource:
            return Set(frozenset(f"f:{name}" for name in fields if name != "status"))
        return Set(frozenset({"f:status"}))

    def identity(self, operation: str) -> Manager:
        version = "" if operation == APPLY else self.api_version
        return Manager(self.manager or "unknown", operation, version, self.subresource)


def track(live: Json, new: Json, origin: Origin) -> list[Json]:
    """The managedFields of `new`, an object that a create, update or patch made out of `live`.

    `live` is empty on a create. Where the request brought entries of its own, those count.
    """
    entries = dict(_starting(live, new, origin))
    if not live and not entries:
        return _made(new, origin)
    difference = typed.compare(bare(live), bare(new), origin.definition).without(origin.reset)
    touched = (difference.added | difference.modified) - OWNERLESS
    entries = taken(entries, touched | difference.removed)
    if touched:
        me = origin.identity(UPDATE)
        previous = entries[me].fields if me in entries else EMPTY
        entries[me] = Entry(previous | touched, origin.api_version, origin.now)
    return encode(_capped(entries))


def _made(new: Json, origin: Origin) -> list[Json]:
    """The same for a new object that nobody is recorded on: all of it is the creator's."""
    fields = typed.everything(new, origin.definition)
    for element in (*OWNERLESS.members, *origin.reset.members):
        if element != META:
            fields.pop(element, None)
    inner = fields.get(META, {})
    for element in (fieldpath.SELF, *OWNERLESS.children[META].members):
        inner.pop(element, None)
    if not inner:
        fields.pop(META, None)
    return (
        [_item(origin.identity(UPDATE), origin.api_version, origin.now, fields)] if fields else []
    )


def bare(obj: Json) -> Json:
    """The object without its managedFields."""
    meta = obj.get("metadata")
    if not isinstance(meta, dict):
        return obj
    return {**obj, "metadata": {k: v for k, v in meta.items() if k != "managedFields"}}


def taken(entries: Entries, fields: Set, keep: Manager | None = None) -> dict[Manager, Entry]:
    """The entries after all managers but one have lost some fields."""
    left = {}
    for manager, entry in entries.items():
        rest = entry if manager == keep else replace(entry, fields=entry.fields - fields)
        if rest.fields:
            left[manager] = rest
    return left


def live_entries(live: Json) -> Entries:
    """What is recorded on an object; nothing where the record cannot be read."""
    return _decode(_listed(live)) or {}


def encode(entries: Entries) -> list[Json]:
    """The entries as `metadata.managedFields` has them, in upstream's order."""
    items = [
        _item(manager, entry.api_version, entry.time, fieldpath.encode(entry.fields))
        for manager, entry in entries.items()
    ]
    return sorted(items, key=_order)


def _item(manager: Manager, api_version: str, time: str, fields: Json) -> Json:
    item = {
        "manager": manager.name,
        "operation": manager.operation,
        "apiVersion": api_version,
        "time": time,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
        "subresource": manager.subresource,
    }
    return {key: value for key, value in item.items() if value != ""}


def problem(items: Any) -> str:
    """Why managedFields could not be read, empty if they can (`validation.go`)."""
    if items is not None and not isinstance(items, list):
        return "managedFields is no list"
    for number, item in enumerate(items or ()):
        try:
            _, entry = _entry(item)
        except (ValueError, TypeError, AttributeError) as error:
            return f"entry {number}: {error if isinstance(item, dict) else 'it is no object'}"
        if not entry.api_version:
            return f"entry {number}: apiVersion must not be empty"
    return ""


def _starting(live: Json, new: Json, origin: Origin) -> Entries:
    """The entries that the request starts from: the live ones, unless it brought others."""
    if origin.subresource:
        return live_entries(live)
    sent = _listed(new)
    if sent is not None and sent in ([], [{}]):
        return {}
    return _decode(sent) or live_entries(live)


def _listed(obj: Json) -> list[Any] | None:
    meta = obj.get("metadata")
    found = meta.get("managedFields") if isinstance(meta, dict) else None
    return found if isinstance(found, list) else None


def _decode(items: list[Any] | None) -> dict[Manager, Entry] | None:
    """None where any entry cannot be read: then none of them is believed."""
    entries: dict[Manager, Entry] = {}
    for item in items or ():
        try:
            manager, entry = _entry(item)
        except (ValueError, TypeError, AttributeError):
            return None
        known = entries.get(manager)
        entries[manager] = replace(entry, fields=entry.fields | known.fields) if known else entry
    return entries


def _entry(item: Any) -> tuple[Manager, Entry]:
    texts = [item.get(k, "") for k in ("manager", "operation", "apiVersion", "subresource", "time")]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("an entry's manager, operation, apiVersion or time is no text")
    name, operation, version, subresource, time = texts
    if operation not in (APPLY, UPDATE) or item.get("fieldsType") != "FieldsV1":
        raise ValueError(f"an entry of operation {operation!r} is not known")
    fields = fieldpath.decode(item.get("fieldsV1", {}))
    identity = Manager(name, operation, "" if operation == APPLY else version, subresource)
    return identity, Entry(fields, version, time)


def _capped(entries: dict[Manager, Entry]) -> dict[Manager, Entry]:
    """Few Update entries: the oldest of a version become one (`capmanagers.go`)."""
    if len(entries) <= UPDATERS:
        return entries
    updaters = sorted(
        (manager for manager in entries if manager.operation == UPDATE),
        key=lambda manager: (entries[manager].time, manager),
    )
    first: dict[str, Manager] = {}
    left = len(updaters)
    for manager in updaters:
        if left <= UPDATERS:
            break
        version = manager.api_version
        if version not in first:
            first[version] = manager
            continue
        bucket = Manager(OLD_UPDATES, UPDATE, version)
        if bucket not in entries:
            entries[bucket] = entries.pop(first[version])
        if manager != bucket:
            entry = entries.pop(manager)
            entries[bucket] = replace(entry, fields=entry.fields | entries[bucket].fields)
        left -= 1
    return entries


def _order(item: Json) -> tuple[str, ...]:
    return tuple(
        item.get(key, "") for key in ("operation", "time", "manager", "apiVersion", "subresource")
    )
