"""Create, update, patch and delete: the order of checks, and the compare-and-swap loop.

The HTTP handlers call it with decoded objects; it answers with the stored bytes at their revision.
It knows no HTTP. The order of the checks is k8s.io/apiserver's
(`pkg/registry/generic/registry/store.go`), because each of them can be observed.
"""

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import orjson

import storage
from apiserver.api import encoding, latency, managedfields, metadata, status
from apiserver.api.status import Cause
from apiserver.registry import prepare
from apiserver.registry.gate import Gate
from apiserver.registry.large import SMALL, Aside, Room
from apiserver.registry.strategy import Json, Strategy

PAGE = 500  # records that emptying a collection reads at once
MUTATING, VALIDATING = "mutating-webhook", "validating-webhook"  # as latencies are called
ATTEMPTS = 8  # names tried for one generateName, as upstream


class Where(NamedTuple):
    """The object a request names; `namespace` is empty for cluster-scoped resources."""

    strategy: Strategy
    namespace: str
    name: str = ""

    @property
    def prefix(self) -> str:
        """The storage prefix of the collection; of all namespaces where none is named."""
        resource = self.strategy.resource
        inner = f"{self.namespace}/" if resource.namespaced and self.namespace else ""
        return resource.prefix + inner

    @property
    def key(self) -> str:
        return self.prefix + self.name


class Written(NamedTuple):
    """The outcome of a write: the object as bytes, and what the client is to be told."""

    data: bytes
    warnings: tuple[str, ...] = ()
    deleted: bool = False
    created: bool = False


@dataclass(frozen=True, slots=True)
class Preconditions:
    """What a delete demands of the object that it meets."""

    uid: str | None = None
    revision: str | None = None


class Admit(Protocol):
    """What one write has to pass, and what may change it; see `admission.chain.Review`."""

    async def mutate(self, operation: str, name: str, obj: Json | None, old: Json | None) -> Json:
        """The object as it shall be."""

    async def validate(self, operation: str, name: str, obj: Json | None, old: Json | None) -> None:
        """Raise where it may not be."""


class Writer:
    """Writes objects through the store; `clock` gives Unix seconds.

    A `size` is how many bytes the client sent. Large objects are looked at `aside`, and those that
    are read must find `room`.
    """

    def __init__(
        self,
        *,
        store: storage.Store,
        gate: Gate,
        clock: Callable[[], float],
        rand: random.Random,
        aside: Aside | None = None,
        room: Room | None = None,
    ) -> None:
        self._store = store
        self._gate = gate
        self._clock = clock
        self._rand = rand
        self._aside = aside or Aside("large objects")
        self._room = room or Room()

    async def create(
        self,
        where: Where,
        obj: Json,
        *,
        manager: str | None = None,
        valid: bool = False,
        size: int = 0,
        dry_run: bool = False,
        admit: Admit | None = None,
    ) -> Written:
        """Store a new object. 404 without its namespace, 409 if the name is taken, 422.

        `manager` becomes the owner of its fields; None leaves its managedFields as they are. One
        that is known to be `valid` is not looked at again.
        """
        strategy, resource = where.strategy, where.strategy.resource
        meta = obj["metadata"]
        if meta.get("resourceVersion"):
            raise prepare.invalid(
                strategy,
                str(meta.get("name") or ""),
                [
                    Cause(
                        "FieldValueForbidden",
                        "Forbidden: resourceVersion should not be set on objects to be created",
                        "metadata.resourceVersion",
                    )
                ],
            )
        doubled = metadata.dedup_owners(meta)
        base = str(meta.get("generateName") or "")
        generated = not meta.get("name") and bool(base)
        given = await self._gate.admit(resource, where.namespace, str(meta.get("name") or base))
        for attempt in range(ATTEMPTS if generated else 1):
            if generated:
                meta["name"] = metadata.generate_name(base, self._rand)
            if attempt == 0:
                origin = self._origin(where, manager) if manager is not None else None
                now = metadata.now_text(self._clock())
                if size <= SMALL:
                    prepare.fill(strategy, where.namespace, obj, origin, now=now)
                else:
                    await self._aside.run(
                        prepare.fill, strategy, where.namespace, obj, origin, now=now
                    )
                if admit is not None:
                    with latency.Span(MUTATING):
                        wanted = await admit.mutate(
                            "CREATE", str(meta.get("name") or ""), obj, None
                        )
                    if wanted != obj:
                        wanted, spoilt = prepare.recorded(wanted, obj)
                        obj, valid = prepare.owned(strategy, wanted, obj), False
                        meta = obj["metadata"]
                        doubled += [*spoilt, *metadata.dedup_owners(meta)]
                if not valid and size <= SMALL:
                    _check_valid(where, obj)
                elif not valid:
                    await self._aside.run(_check_valid, where, obj)
            if admit is not None:  # each name, as upstream
                with latency.Span(VALIDATING):
                    await admit.validate("CREATE", str(meta["name"]), obj, None)
            name = str(meta["name"])
            try:
                data, revision = await self._insert(where, name, obj, given, dry_run=dry_run)
            except storage.KeyExists as error:
                existing = error.current
                continue
            except storage.TooLarge as error:
                raise _too_large(error) from error
            data = encoding.with_revision(data, revision) if revision else data
            told = (*doubled, *prepare.warnings(where.strategy, obj, {"metadata": {}}))
            return Written(data, told, created=True)
        raise _exists(where, name, existing, generated=bool(base))

    async def replace(self, where: Where, obj: Json, **options: Any) -> Written:
        """Put an object in the place of another; a UID in it is a precondition. See `update`."""

        def replaced(old: Json) -> Json:
            uid, known = obj["metadata"].get("uid"), old["metadata"]["uid"]
            if uid and uid != known:
                why = (
                    f"Precondition failed: UID in precondition: {uid}, UID in object meta: {known}"
                )
                raise status.conflict(where.strategy.resource, where.name, why)
            return prepare.copied(obj)

        return await self.update(where, replaced, **options)

    async def update(
        self,
        where: Where,
        change: Callable[[Json], Json],
        *,
        manager: str | None = None,
        subresource: str = "",
        size: int = 0,
        dry_run: bool = False,
        admit: Admit | None = None,
    ) -> Written:
        """Apply `change` to the object and store the result.

        `change` gets a copy with its resourceVersion and returns the wanted object; a
        resourceVersion in that is a precondition. Without one a lost race is played again on the
        fresh object, so the client never sees it. `manager` becomes the owner of what changes.
        """

        def tracked(old: Json) -> Json:
            wanted = change(prepare.copied(old))
            if not isinstance(wanted.get("metadata"), dict):
                raise status.bad_request("metadata must be an object")
            if manager is not None:
                origin = self._origin(where, manager, subresource)
                wanted["metadata"]["managedFields"] = managedfields.track(old, wanted, origin)
            return wanted

        return await self._store_change(where, tracked, subresource, size, dry_run, admit)

    async def apply(
        self,
        where: Where,
        applied: Json,
        *,
        manager: str,
        force: bool,
        subresource: str = "",
        size: int = 0,
        dry_run: bool = False,
        may_create: Callable[[], Awaitable[None]] | None = None,
        admit: Admit | None = None,
    ) -> Written:
        """Server-side apply: create the object or merge into it. 409 where others own a field.

        `may_create` is called before the former, and raises where that is not allowed.
        """

        def merged(old: Json) -> Json:
            origin = self._origin(where, manager, subresource)
            try:
                return managedfields.apply(old, applied, origin, force=force)
            except managedfields.Conflicts as conflicts:
                raise managedfields.apply_conflict(conflicts) from None

        resource = where.strategy.resource
        while True:
            try:
                return await self._store_change(where, merged, subresource, size, dry_run, admit)
            except status.NotFound:
                if subresource:
                    raise
            if uid := applied["metadata"].get("uid"):
                why = (
                    f"uid mismatch: the provided object specified uid {uid},"
                    " and no existing object was found"
                )
                raise status.conflict(resource, where.name, why)
            if may_create is not None:
                await may_create()
            try:
                made = merged({}) if size <= SMALL else await self._aside.run(merged, {})
                return await self.create(where, made, size=size, dry_run=dry_run, admit=admit)
            except status.AlreadyExists:
                continue

    async def _store_change(
        self,
        where: Where,
        change: Callable[[Json], Json],
        subresource: str,
        size: int,
        dry_run: bool,
        admit: Admit | None,
    ) -> Written:
        while True:
            record, old = await self._read(where)
            large = max(size, len(record.value)) > SMALL
            with self._room.taken(len(record.value)):
                changed = await self._changed(
                    where, record, old, change, subresource, large, dry_run, admit
                )
            if changed is not None:
                return changed

    async def _changed(
        self,
        where: Where,
        record: storage.Record,
        old: Json,
        change: Callable[[Json], Json],
        subresource: str,
        large: bool,
        dry_run: bool,
        admit: Admit | None,
    ) -> Written | None:
        """Change what was read; None if a race was lost."""
        resource, name = where.strategy.resource, where.name
        wanted = await self._aside.run(change, old) if large else change(old)
        spoilt: list[str] = []
        if admit is not None:
            with latency.Span(MUTATING):
                changed = await admit.mutate("UPDATE", name, wanted, old)
            if changed != wanted:
                changed, spoilt = prepare.recorded(changed, wanted)
                wanted = prepare.known(where.strategy, changed)
        doubled = metadata.dedup_owners(wanted["metadata"])
        asked = wanted["metadata"].get("resourceVersion")
        if asked and _revision(asked) != record.revision:
            raise status.conflict(resource, name)
        merging = where.strategy, name, old, wanted, subresource
        wanted = (
            await self._aside.run(prepare.merge, *merging) if large else prepare.merge(*merging)
        )
        told = (*spoilt, *doubled, *prepare.warnings(where.strategy, wanted, old))
        if admit is not None:
            with latency.Span(VALIDATING):
                await admit.validate("UPDATE", name, wanted, old)
        if prepare.gone(where.strategy, wanted):
            data = await self._remove(where, record, wanted, dry_run=dry_run)
            return None if data is None else Written(data, told, deleted=True)
        same = await self._aside.run(_same, wanted, old) if large else _same(wanted, old)
        if same:
            return Written(encoding.with_revision(record.value, record.revision), told)
        value = encoding.encode_stored(wanted)
        if dry_run:
            return Written(encoding.with_revision(value, record.revision), told)
        try:
            revision = await self._store.update(where.key, value, expected=record.revision)
        except storage.Conflict as error:
            if asked and error.current is not None:
                raise status.conflict(resource, name) from error
            return None
        except storage.TooLarge as error:
            raise _too_large(error) from error
        return Written(encoding.with_revision(value, revision), told)

    async def delete(
        self,
        where: Where,
        *,
        preconditions: Preconditions | None = None,
        finalizers: tuple[str, ...] = (),
        meant: Callable[[storage.Record], bool] | None = None,
        dry_run: bool = False,
        admit: Admit | None = None,
    ) -> Written:
        """Delete the object, or mark it as terminating where something holds it.

        One that is not `meant`, as it is when it goes, is left alone: 404.
        """
        while True:
            record, old = await self._read(where)
            if meant is not None and not meant(record):
                raise status.not_found(where.strategy.resource, where.name)
            if preconditions is not None:
                _check(where, preconditions, old["metadata"], record.revision)
            with self._room.taken(len(record.value)):
                deleted = await self._deleted(where, record, old, finalizers, dry_run, admit)
            if deleted is not None:
                return deleted

    async def _deleted(
        self,
        where: Where,
        record: storage.Record,
        old: Json,
        finalizers: tuple[str, ...],
        dry_run: bool,
        admit: Admit | None,
    ) -> Written | None:
        """Delete what was read; None if a race was lost."""
        strategy, meta = where.strategy, old["metadata"]
        if where.name in strategy.immortal:
            why = "this namespace may not be deleted"
            raise status.forbidden(strategy.resource, where.name, why)
        if admit is not None:
            with latency.Span(MUTATING):
                await admit.mutate("DELETE", where.name, None, old)
            with latency.Span(VALIDATING):
                await admit.validate("DELETE", where.name, None, old)
        held = [*(meta.get("finalizers") or []), *finalizers]
        if not held and not strategy.linger(old):
            data = await self._remove(where, record, old, dry_run=dry_run)
            return None if data is None else Written(data, deleted=True)
        if meta.get("deletionTimestamp"):
            return Written(encoding.with_revision(record.value, record.revision))
        meta["deletionTimestamp"] = metadata.now_text(self._clock())
        meta["deletionGracePeriodSeconds"] = 0
        if held:
            meta["finalizers"] = list(dict.fromkeys(held))
        if strategy.generation:
            meta["generation"] = int(meta.get("generation") or 0) + 1
        strategy.terminate(old)
        value = encoding.encode_stored(old)
        if dry_run:
            return Written(encoding.with_revision(value, record.revision))
        try:
            revision = await self._store.update(where.key, value, expected=record.revision)
        except storage.Conflict:
            return None
        return Written(encoding.with_revision(value, revision))

    async def clear(self, where: Where, *, until: int) -> bool:
        """Delete all of a collection that was created up to a revision.

        Whether nothing had to stay for its finalizers.
        """
        after, clear = "", True

        def meant(record: storage.Record) -> bool:
            return record.created <= until

        while True:
            page = await self._store.list(where.prefix, after=after, limit=PAGE)
            for record in page.records:
                after = record.key
                name = record.key.rpartition("/")[2]
                namespace = record.key.removeprefix(where.strategy.resource.prefix).partition("/")
                item = Where(where.strategy, namespace[0] if namespace[1] else "", name)
                try:
                    clear &= (await self.delete(item, meant=meant)).deleted
                except status.NotFound:
                    continue
            if not page.remaining:
                return clear

    def _origin(self, where: Where, manager: str, subresource: str = "") -> managedfields.Origin:
        return managedfields.Origin(
            manager=manager,
            resource=where.strategy.resource,
            now=metadata.now_text(self._clock()),
            subresource=subresource,
        )

    async def _insert(
        self, where: Where, name: str, obj: Json, given: storage.Condition | None, *, dry_run: bool
    ) -> tuple[bytes, int]:
        data, key = encoding.encode_stored(obj), where.prefix + name
        if dry_run:
            record, _ = await self._store.get(key)
            if record is not None:
                raise storage.KeyExists(record)
            return data, 0
        while True:
            try:
                return data, await self._store.create(key, data, given=given)
            except storage.Conflict:  # the namespace has changed
                given = await self._gate.admit(
                    where.strategy.resource, where.namespace, name, fresh=True
                )

    async def _read(self, where: Where) -> tuple[storage.Record, Json]:
        record, _ = await self._store.get(where.key)
        if record is None:
            raise status.not_found(where.strategy.resource, where.name)
        try:
            old = orjson.loads(record.value)
            if not isinstance(old["metadata"]["uid"], str):
                raise TypeError("metadata.uid is no text")
        except (ValueError, TypeError, KeyError):
            # Unreadable, yet deletable and replaceable by name: everything it held is void.
            old = {"metadata": {"name": where.name, "uid": ""}}
            if where.namespace:
                old["metadata"]["namespace"] = where.namespace
        old["metadata"]["resourceVersion"] = str(record.revision)
        return record, old

    async def _remove(
        self, where: Where, record: storage.Record, last: Json, *, dry_run: bool
    ) -> bytes | None:
        """Delete for good; the last state at the deletion's revision, None if a race was lost."""
        last = prepare.copied(last)
        last["metadata"].pop("resourceVersion", None)
        revision = record.revision
        if not dry_run:
            try:
                revision = await self._store.delete(where.key, expected=record.revision)
            except storage.Conflict:
                return None
        return encoding.with_revision(encoding.encode_stored(last), revision)


def _same(wanted: Json, old: Json) -> bool:
    return encoding.canonical(wanted) == encoding.canonical(prepare.unversioned(old))


def _check_valid(where: Where, obj: Json) -> None:
    meta = obj["metadata"]
    causes = [
        *metadata.validate_metadata(meta, namespaced=where.strategy.resource.namespaced),
        *where.strategy.validate(obj),
    ]
    if causes:
        raise prepare.invalid(where.strategy, str(meta.get("name") or ""), causes)


def _too_large(error: storage.TooLarge) -> status.StatusError:
    return status.entity_too_large(f"the store takes no object of this size ({error})")


def _revision(text: object) -> int:
    if isinstance(text, str) and text.isascii() and text.isdigit():
        return int(text)
    raise status.bad_request(
        f'metadata.resourceVersion: Invalid value: "{text}": must be a resourceVersion'
        " that this server gave"
    )


def _exists(
    where: Where, name: str, existing: storage.Record, *, generated: bool
) -> status.StatusError:
    terminating = b'"deletionTimestamp"' in existing.value
    prefix = "object is being deleted: " if terminating else ""
    error = status.already_exists(where.strategy.resource, name, prefix=prefix)
    if generated:
        error.message += ", the server was not able to generate a unique name for the object"
        error.retry_after = 1
    return error


def _check(where: Where, demands: Preconditions, meta: Mapping[str, Any], revision: int) -> None:
    resource = where.strategy.resource
    if demands.uid is not None and demands.uid != meta.get("uid"):
        raise status.conflict(
            resource,
            where.name,
            f"the UID in the precondition ({demands.uid}) does not match the UID in record "
            f"({meta.get('uid')}). The object might have been deleted and then recreated",
            kind=resource.kind,
        )
    if demands.revision is not None and demands.revision != str(revision):
        raise status.conflict(
            resource,
            where.name,
            f"the ResourceVersion in the precondition ({demands.revision}) does not match the "
            f"ResourceVersion in record ({revision}). The object might have been modified",
            kind=resource.kind,
        )
