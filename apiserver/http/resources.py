"""Serve the resources: parse what a request asks, call the registry, answer in its words.

One ASGI application behind `/api`, `/apis` and the post's short form of the path. Hot paths (get,
list, watch) pass on stored bytes.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

import storage
from apiserver.api import json_patch, managedfields, patch, selectors, status, strict
from apiserver.api.resource import Resource
from apiserver.cache.cacher import Cacher
from apiserver.cache.object import Object
from apiserver.cache.session import View
from apiserver.http import body, negotiation, options, responses
from apiserver.http.metrics import Metrics
from apiserver.http.negotiation import Output
from apiserver.http.request_info import RequestInfo
from apiserver.http.watch import Watch
from apiserver.registry.large import SMALL, Aside, Room
from apiserver.registry.reader import Reader, check_match
from apiserver.registry.strategy import Strategy
from apiserver.registry.writer import Where, Writer, Written

if TYPE_CHECKING:
    from apiserver.admission.chain import Review
    from apiserver.http.admission import Admission
    from apiserver.http.guard import Guard

# Bytes of a body that are decoded at once, by what it is; more of them are decoded in a thread.
QUICK = {
    **dict.fromkeys((negotiation.JSON, negotiation.PROTOBUF, *negotiation.PATCHES), SMALL),
    **dict.fromkeys((negotiation.YAML, negotiation.APPLY_PATCH), 4 << 10),
}


class Resources:
    """The ASGI application; `stopping` ends every watch.

    A watch without a timeout of its own ends after once to twice `min_watch` seconds. Large bodies
    must find `room`, and are decoded `aside`.
    """

    def __init__(
        self,
        *,
        strategies: Sequence[Strategy],
        reader: Reader,
        writer: Writer,
        cacher: Cacher,
        metrics: Metrics,
        stopping: asyncio.Event,
        clock: Callable[[], float],
        rand: random.Random,
        min_watch: float,
        aside: Aside,
        room: Room,
        guard: "Guard | None" = None,
        admission: "Admission | None" = None,
    ) -> None:
        self._strategies = {strategy.resource.prefix: strategy for strategy in strategies}
        self._reader = reader
        self._writer = writer
        self._cacher = cacher
        self._metrics = metrics
        self._stopping = stopping
        self._clock = clock
        self._rand = rand
        self._min_watch = min_watch
        self._aside = aside
        self._middling = Aside("bodies")
        self._room = room
        self._guard = guard
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve `scope["request_info"]`; a WebSocket may ask for a watch and nothing else."""
        info: RequestInfo = scope["request_info"]
        if scope["type"] == "websocket":
            if info.verb != "watch":
                raise status.bad_request("only a watch can be asked for over a WebSocket")
            scope = {**scope, "type": "http", "method": "GET", "websocket": True}
        request = Request(scope, receive)
        serve = getattr(self, f"_{info.verb}")
        try:
            response: ASGIApp = await serve(info, request)
            await response(scope, receive, send)
        finally:
            if body.TAKEN in scope:
                self._room.give(scope[body.TAKEN])

    async def _get(self, info: RequestInfo, request: Request) -> Response:
        output = self._output(request)
        where = self._where(info)
        revision = options.revision(request.scope["query"])
        item = await self._reader.get(info.resource, where.key, info.name, revision)
        response = responses.stored(item.data, info.resource, output, now=self._clock())
        if isinstance(response, responses.Yaml):
            return await response.made(_field(request, b"accept-encoding"))
        if responses.compressible(response, _field(request, b"accept-encoding")):
            return await responses.compressed(response)
        return response

    async def _list(self, info: RequestInfo, request: Request) -> Response:
        output = self._output(request)
        query = request.scope["query"]
        asked = options.listing(query)
        initial = options.truth(query, "sendInitialEvents")
        check_match("ListOptions", asked, watch=False, initial=initial)
        raw = not output.transform and not output.pretty
        found = await self._reader.list(info.resource, self._view(info, query), asked, raw=raw)
        response = responses.listing(found, info.resource, output, now=self._clock())
        if isinstance(response, responses.Yaml):
            return await response.made(_field(request, b"accept-encoding"))
        if responses.compressible(response, _field(request, b"accept-encoding")):
            return await responses.compressed(response)
        return response

    async def _watch(self, info: RequestInfo, request: Request) -> ASGIApp:
        output = self._output(request, stream=True)
        if output.transform:
            responses.transform(info.resource, output, now=0)
        query = request.scope["query"]
        return Watch(
            cacher=self._cacher,
            reader=self._reader,
            resource=info.resource,
            view=self._view(info, query),
            output=output,
            asked=options.watching(query),
            metrics=self._metrics,
            stopping=self._stopping,
            clock=self._clock,
            deadline=self._min_watch * (1 + self._rand.random()),
        )

    async def _create(self, info: RequestInfo, request: Request) -> Response:
        output = self._output(request)
        media = negotiation.body(_field(request, b"content-type"))
        data = await body.read(request, self._room)
        asked = self._writing("CreateOptions", request)
        given = data, media, self._strategy(info), asked.validation, request.scope
        if len(data) <= QUICK[media]:
            obj, warnings, valid = body.decode(*given)
        else:
            obj, warnings, valid = await self._apart(data).run(body.decode, *given)
        body.place(obj, info.resource, info.namespace)
        review = await self._review(info, request, "CreateOptions", dry_run=asked.dry_run)
        written = await self._writer.create(
            self._where(info),
            obj,
            manager=asked.manager,
            valid=valid,
            size=len(data),
            dry_run=asked.dry_run,
            admit=review,
        )
        return self._written(written, warnings, info, output, request, review)

    async def _update(self, info: RequestInfo, request: Request) -> Response:
        output = self._output(request)
        media = negotiation.body(_field(request, b"content-type"))
        data = await body.read(request, self._room)
        asked = self._writing("UpdateOptions", request)
        given = data, media, self._strategy(info), asked.validation, request.scope
        if len(data) <= QUICK[media]:
            obj, warnings, _ = body.decode(*given)
        else:
            obj, warnings, _ = await self._apart(data).run(body.decode, *given)
        body.place(obj, info.resource, info.namespace, info.name)
        review = await self._review(info, request, "UpdateOptions", dry_run=asked.dry_run)
        written = await self._writer.replace(
            self._where(info),
            obj,
            manager=asked.manager,
            subresource=info.subresource,
            size=len(data),
            dry_run=asked.dry_run,
            admit=review,
        )
        return self._written(written, warnings, info, output, request, review)

    async def _patch(self, info: RequestInfo, request: Request) -> Response:
        media = negotiation.patch(_field(request, b"content-type"))
        output = self._output(request)
        data = await body.read(request, self._room)
        applying = media == negotiation.APPLY_PATCH
        asked = self._writing("PatchOptions", request, apply=applying)
        if applying:
            return await self._apply(info, request, output, data, asked)
        told: list[str] = []
        strategy = self._strategy(info)
        if len(data) <= QUICK[media]:
            change, warnings = _change(data, media, strategy)
        else:
            change, warnings = await self._apart(data).run(_change, data, media, strategy)

        def apply(old: dict[str, Any]) -> dict[str, Any]:
            new = _patched(media, old, change, info)
            new, told[:] = body.accept(new, [], strategy, asked.validation, 422)
            body.place(new, info.resource, info.namespace, info.name)
            return new

        review = await self._review(info, request, "PatchOptions", dry_run=asked.dry_run)
        written = await self._writer.update(
            self._where(info),
            apply,
            manager=asked.manager,
            subresource=info.subresource,
            size=len(data),
            dry_run=asked.dry_run,
            admit=review,
        )
        return self._written(written, [*warnings, *told], info, output, request, review)

    async def _apply(
        self,
        info: RequestInfo,
        request: Request,
        output: Output,
        data: bytes,
        asked: options.WriteOptions,
    ) -> Response:
        given = data, self._strategy(info), asked.validation, info, request.scope
        if len(data) <= QUICK[negotiation.APPLY_PATCH]:
            applied, warnings = _applied(*given)
        else:
            applied, warnings = await self._apart(data).run(_applied, *given)
        guard, scope = self._guard, request.scope
        review = await self._review(info, request, "PatchOptions", dry_run=asked.dry_run)
        written = await self._writer.apply(
            self._where(info),
            applied,
            manager=asked.manager,
            force=asked.force,
            subresource=info.subresource,
            size=len(data),
            dry_run=asked.dry_run,
            may_create=None if guard is None else lambda: guard.admit(scope, info, "create"),
            admit=review,
        )
        return self._written(written, warnings, info, output, request, review)

    async def _delete(self, info: RequestInfo, request: Request) -> Response:
        output = self._output(request)
        asked = await self._deleting(request)
        review = await self._review(info, request, "DeleteOptions", dry_run=asked.dry_run)
        written = await self._writer.delete(
            self._where(info),
            preconditions=asked.preconditions,
            finalizers=asked.finalizers,
            dry_run=asked.dry_run,
            admit=review,
        )
        if not written.deleted:
            response = self._written(written, [], info, output, request, review)
            if asked.accepted:
                response.status_code = 202
            return response
        metadata = orjson.loads(written.data)["metadata"]
        details = {
            "name": info.name,
            "group": info.resource.group,
            "kind": info.resource.plural,
            "uid": metadata.get("uid", ""),
        }
        response = responses.document(
            {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Success",
                "details": {key: value for key, value in details.items() if value},
            },
            pretty=output.pretty,
        )
        return responses.with_warnings(response, review.warnings if review else ())

    async def _deletecollection(self, info: RequestInfo, request: Request) -> Response:
        self._output(request)
        asked = await self._deleting(request)
        query = request.scope["query"]
        view = self._view(info, query)
        found = await self._reader.list(info.resource, view, options.listing(query))
        review = await self._review(info, request, "DeleteOptions", dry_run=asked.dry_run)
        deleted = []
        for item in found.items:
            where = Where(self._strategy(info), info.namespace, item.key.rpartition("/")[2])
            try:
                written = await self._writer.delete(
                    where,
                    preconditions=asked.preconditions,
                    finalizers=asked.finalizers,
                    meant=partial(_still_shown, item, view, info.resource),
                    dry_run=asked.dry_run,
                    admit=review,
                )
            except status.NotFound:
                continue
            deleted.append(written.data)
        return responses.list_of(deleted, info.resource, found.revision)

    def _apart(self, data: bytes) -> Aside:
        """Where a body is decoded that takes long; what may be YAML waits for nothing larger."""
        return self._middling if len(data) <= strict.YAML_LIMIT else self._aside

    def _strategy(self, info: RequestInfo) -> Strategy:
        return self._strategies[info.resource.prefix]

    def _where(self, info: RequestInfo) -> Where:
        return Where(self._strategy(info), info.namespace, info.name)

    def _view(self, info: RequestInfo, query: dict[str, str]) -> View:
        prefix = Where(self._strategy(info), info.namespace).prefix
        text = query.get("fieldSelector", "")
        if info.name:
            text = ",".join(filter(None, (f"metadata.name={info.name}", text)))
        return View(
            prefix,
            selectors.parse_labels(query.get("labelSelector", "")),
            selectors.parse_fields(text, info.resource),
        )

    def _output(self, request: Request, *, stream: bool = False) -> Output:
        query = request.scope["query"]
        return negotiation.output(
            _field(request, b"accept"),
            agent=_field(request, b"user-agent"),
            pretty=query.get("pretty", ""),
            include=query.get("includeObject", ""),
            stream=stream,
        )

    def _writing(self, kind: str, request: Request, *, apply: bool = False) -> options.WriteOptions:
        return options.writing(
            kind,
            request.scope["query"],
            _dry_runs(request),
            agent=_field(request, b"user-agent"),
            apply=apply,
        )

    async def _review(
        self, info: RequestInfo, request: Request, kind: str, *, dry_run: bool
    ) -> "Review | None":
        """What a write has to pass before it is stored; None where nothing wants to see it."""
        if self._admission is None:
            return None

        def count() -> int:
            if not self._cacher.ready:
                raise status.not_ready()
            prefix = Where(self._strategy(info), info.namespace).prefix
            return self._cacher.objects(info.resource).count(prefix)

        return await self._admission.reviewing(
            request.scope, info, kind, dry_run=dry_run, count=count
        )

    async def _deleting(self, request: Request) -> options.DeleteOptions:
        data = await body.read(request, self._room)
        given: Any = {}
        if data:
            media = negotiation.body(_field(request, b"content-type"))
            if len(data) <= QUICK[media]:
                given, _ = body.parsed(data, media, request.scope)
            else:
                given, _ = await self._apart(data).run(body.parsed, data, media, request.scope)
            if not isinstance(given, dict):
                raise status.bad_request("DeleteOptions must be an object")
            if given.get("kind") not in (None, "", "DeleteOptions"):
                raise status.bad_request(
                    f'no kind "{given["kind"]}" is registered for deletion; use DeleteOptions'
                )
        return options.deleting(request.scope["query"], _dry_runs(request), given)

    def _written(
        self,
        written: Written,
        warnings: list[str],
        info: RequestInfo,
        output: Output,
        request: Request,
        review: "Review | None" = None,
    ) -> Response:
        response = responses.stored(
            written.data,
            info.resource,
            output,
            now=self._clock(),
            code=201 if written.created else 200,
        )
        told = review.warnings if review is not None else ()
        return responses.with_warnings(response, [*warnings, *written.warnings, *told])


def _still_shown(item: Object, view: View, resource: Resource, record: storage.Record) -> bool:
    """Whether a record is of the very object that was listed, and as the client may ask for.

    The selector may be all that it has a permission for, and the list of long ago.
    """
    if item.revision == record.revision:
        return True
    try:
        now = Object.decode(resource, record.key, record.value, record.revision)
    except ValueError:
        return False
    return item.uid == now.uid and view.shows(now)


def _field(request: Request, name: bytes) -> str:
    found: bytes = request.scope["fields"].get(name, b"")
    return found.decode("latin-1")


def _dry_runs(request: Request) -> list[str]:
    """All values of dryRun, of which each must be right."""
    asked = "dryRun" in request.scope["query"]
    return request.query_params.getlist("dryRun") if asked else []


def _change(data: bytes, media: str, strategy: Strategy) -> tuple[Any, Sequence[str]]:
    """What a patch says, and what is to be warned about."""
    change = body.decode_patch(data)
    if media == negotiation.JSON_PATCH or not isinstance(change, dict):
        return change, ()
    # What a patch says in an old spelling must meet the canonical field, not stand beside.
    return strategy.normalise(change)


def _applied(
    data: bytes, strategy: Strategy, validation: str, info: RequestInfo, scope: Scope
) -> tuple[dict[str, Any], list[str]]:
    """The configuration of an apply, and what is to be warned about."""
    applied, warnings = body.decode_applied(data, strategy, validation, scope)
    if not applied["metadata"].get("name"):
        applied["metadata"]["name"] = info.name
    body.place(applied, info.resource, info.namespace, info.name)
    managedfields.check(applied, info.resource.schema, info.resource.kind)
    return applied, warnings


def _patched(media: str, old: dict[str, Any], change: Any, info: RequestInfo) -> dict[str, Any]:
    if media == negotiation.JSON_PATCH:
        new = json_patch.json_patch(old, change)
    elif not isinstance(change, dict):
        raise status.bad_request("error decoding patch: the patch is not an object")
    elif media == negotiation.MERGE_PATCH:
        new = patch.merge_patch(old, change)
    else:
        new = patch.strategic_merge_patch(old, change, info.resource.schema)
    if not isinstance(new, dict) or not isinstance(new.get("metadata"), dict):
        raise status.bad_request("the patched object is not an object with metadata")
    return new
