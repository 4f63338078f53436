"""Get and list: what a client is owed for its resourceVersion, from the cache where that can be.

The HTTP handlers call it. The rules are those of `pkg/storage/interfaces.go` of k8s.io/apiserver:
no resourceVersion means the newest state, 0 any state, N a state not older (or, in pages, exactly
N). Lists hold stored bytes; nothing is decoded but what a field selector asks for.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import storage
from apiserver.api import status
from apiserver.api.resource import Resource
from apiserver.api.status import Cause
from apiserver.cache.blocks import Run
from apiserver.cache.cacher import Cacher
from apiserver.cache.object import Object
from apiserver.cache.session import View
from apiserver.registry.continuation import INCONSISTENT, Continuation

WAIT = 3.0  # seconds the cache gets to show what the client is owed, as upstream
PORTION = 1_000  # objects that are tried on a selector without letting others run

TOO_OLD = "The resourceVersion for the provided list is too old."
CONTINUE_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start"
    " a new list without the continue parameter, or use the continue token in this response to"
    " retrieve the remainder of the results. Continuing with the provided token results in an"
    " inconsistent list - objects that were created, modified, or deleted between the time the"
    " first chunk was returned and now may show up in the list."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOptions:
    """The query of a list or watch, decoded. `revision` None: not given."""

    revision: int | None = None
    match: str = ""
    limit: int = 0
    token: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """Objects in key order at one revision. `remaining` is None where it is not told.

    `runs` are the items as JSON in pieces, instead of `items`, where that is at hand.
    """

    items: list[Object]
    revision: int
    token: str = ""
    remaining: int | None = None
    runs: Sequence[Run] | None = None


class Reader:
    """Reads one consistent state; falls back to the store where the cache cannot give it.

    `consistent` counts the reads of the newest state, and whether the cache gave it.
    """

    def __init__(self, *, store: storage.Store, cacher: Cacher) -> None:
        self._store = store
        self._cacher = cacher
        self.consistent: Counter[tuple[Resource, bool]] = Counter()

    async def get(self, resource: Resource, key: str, name: str, revision: int | None) -> Object:
        """The object, at least as new as the client is owed. 404, 504."""
        if await self._current(resource, revision):
            objects = self._cacher.objects(resource)
            item, broken = objects.get(key), objects.broken.get(key)
        else:
            record, _ = await self._store.get(key)
            item, broken = _decode(resource, record) if record else (None, None)
        if item is not None:
            return item
        if broken is not None:
            raise status.internal(
                f"the stored {resource.qualified} {name!r} cannot be decoded ({broken}); it is left"
                " out of lists and watches, and can be deleted or replaced by name"
            )
        raise status.not_found(resource, name)

    async def list(
        self, resource: Resource, view: View, options: ListOptions, *, raw: bool = False
    ) -> Listing:
        """The objects of a view, `raw` as bytes. 400, 410, 504 by the rules for resourceVersion."""
        if options.token:
            if options.revision:
                raise status.bad_request(
                    "specifying resource version is not allowed when using continue"
                )
            start = Continuation.decode(options.token)
            revision = 0 if start.revision == INCONSISTENT else start.revision
            return await self._stored(resource, view, options, revision, view.prefix + start.last)
        exact = options.revision and (
            options.match == "Exact" or (options.limit and not options.match)
        )
        if exact and options.revision != self._cacher.revision:
            return await self._stored(resource, view, options, options.revision or 0, "")
        if not await self._current(resource, options.revision):
            return await self._stored(resource, view, options, 0, "")
        objects = self._cacher.objects(resource)
        limit = 0 if options.revision == 0 else options.limit
        if raw and view.everything and not limit:
            return Listing([], objects.revision, runs=objects.runs(view.prefix))
        # The objects are those of this revision, whatever happens while they are looked through.
        found, revision = objects.candidates(view), objects.revision
        matching = found if view.everything else await _shown(view, found)
        if not limit or len(matching) <= limit:
            return Listing(matching, revision)
        return _page(view, matching[:limit], revision, len(matching) - limit)

    async def state(self, resource: Resource, view: View, revision: int | None) -> Listing:
        """What a watch that wants the present state starts from."""
        return await self.list(resource, view, ListOptions(revision=revision, match="NotOlderThan"))

    async def newest(self) -> int:
        """The newest revision there is, once the cache has it."""
        revision = await self._store.revision()
        await self._cacher.caught_up(revision, timeout=WAIT)
        return revision

    async def _current(self, resource: Resource, revision: int | None) -> bool:
        """Wait until the cache has what the client is owed; False where the store must be asked."""
        if not await self._cacher.soon_ready(timeout=WAIT):
            raise status.not_ready()
        if revision is None:
            owed = await self._store.revision()
            current = await self._cacher.caught_up(owed, timeout=WAIT)
            self.consistent[resource, current] += 1
            return current
        if not await self._cacher.caught_up(revision, timeout=WAIT):
            newest = await self._store.revision()
            if revision > newest:
                raise status.future_revision(revision, newest)
            return False
        return True

    async def _stored(
        self, resource: Resource, view: View, options: ListOptions, revision: int, after: str
    ) -> Listing:
        """Read pages from the store until the limit is filled with what the view shows."""
        items: list[Object] = []
        while True:
            try:
                page = await self._store.list(
                    view.prefix, after=after, limit=options.limit, revision=revision
                )
            except storage.Compacted as error:
                if options.token:
                    last = after.removeprefix(view.prefix)
                    raise status.expired(
                        CONTINUE_TOO_OLD,
                        continue_token=Continuation(INCONSISTENT, last).encode(),
                    ) from error
                raise status.expired(TOO_OLD) from error
            except storage.FutureRevision as error:
                raise status.future_revision(revision, error.current) from error
            revision = page.revision
            decoded = [_decode(resource, record)[0] for record in page.records]
            kept = await _shown(view, [item for item in decoded if item is not None])
            room = options.limit - len(items) if options.limit else len(kept)
            items += kept[:room]
            unread = page.remaining + len(kept) - len(kept[:room])
            if not options.limit or not unread:
                return Listing(items, page.revision)
            if len(items) == options.limit:
                return _page(view, items, page.revision, unread)
            after = page.records[-1].key


def check_match(kind: str, options: ListOptions, *, watch: bool, initial: bool | None) -> None:
    """422 for the combinations that `ListOptions` forbids (`internalversion/validation`)."""
    match = options.match
    causes = []
    if watch:
        supported, forbidden = '"NotOlderThan"', _forbidden_for_watch(match, initial)
    else:
        supported = '"Exact", "NotOlderThan", ""'
        forbidden = _forbidden_for_list(match, options, initial)
    causes += [Cause("FieldValueForbidden", f"Forbidden: {why}", name) for name, why in forbidden]
    if match not in ("", "NotOlderThan") and (watch or match != "Exact"):
        text = f'Unsupported value: "{match}": supported values: {supported}'
        causes.append(Cause("FieldValueNotSupported", text, "resourceVersionMatch"))
    if causes:
        raise status.invalid_options(kind, *causes)


def _forbidden_for_watch(match: str, initial: bool | None) -> Iterator[tuple[str, str]]:
    if initial is not None and match != "NotOlderThan":
        yield (
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        )
    if initial is None and match:
        yield (
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        )


def _forbidden_for_list(
    match: str, options: ListOptions, initial: bool | None
) -> Iterator[tuple[str, str]]:
    if initial is not None:
        yield "sendInitialEvents", "sendInitialEvents is forbidden for list"
    if match and options.token:
        yield (
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden when continue is provided",
        )
    if match and options.revision is None:
        yield (
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        )
    if match == "Exact" and options.revision == 0:
        yield (
            "resourceVersionMatch",
            'resourceVersionMatch "exact" is forbidden for resourceVersion "0"',
        )


def _page(view: View, items: list[Object], revision: int, more: int) -> Listing:
    if not more:
        return Listing(items, revision)
    token = Continuation(revision, items[-1].key.removeprefix(view.prefix)).encode()
    return Listing(items, revision, token, more if view.everything else None)


async def _shown(view: View, items: Sequence[Object]) -> list[Object]:
    shown: list[Object] = []
    for first in range(0, len(items), PORTION):
        if first:
            await asyncio.sleep(0)
        shown += [item for item in items[first : first + PORTION] if view.shows(item)]
    return shown


def _decode(resource: Resource, record: storage.Record) -> tuple[Object | None, str | None]:
    """The object, or why there is none."""
    try:
        return Object.decode(resource, record.key, record.value, record.revision), None
    except ValueError as error:
        return None, str(error)
