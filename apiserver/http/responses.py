"""Turn objects, listings and errors into responses in the negotiated representation."""

import asyncio
import gzip
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from apiserver.api import encoding, status, table
from apiserver.api.resource import Resource
from apiserver.cache.blocks import Run
from apiserver.http.negotiation import JSON, YAML, Output
from apiserver.registry.reader import Listing

WARNINGS_LIMIT = 4096  # runes of all warnings together; beyond it each is cut to 256
WARNING_LIMIT = 256
COMPRESS_FROM = 128 * 1024  # bytes, as upstream
COMPRESSED = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
ANSWERED = "answered"  # in the scope: what is answered in YAML, as JSON


class Json(Response):
    """Encoded JSON with the two headers that it needs; Starlette's own way there costs double."""

    media_type = JSON

    def __init__(self, content: bytes, code: int = 200) -> None:
        self.status_code = code
        self.body = content
        self.background = None
        length = str(len(content)).encode()
        self.raw_headers = [
            (b"content-type", b"application/json"),
            (b"content-length", length),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = self.raw_headers
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        body: Send = scope.get("send_body", send)
        await body({"type": "http.response.body", "body": self.body})


class Items(Response):
    """A List in pieces: it is joined run by run while it is sent, never as a whole."""

    def __init__(self, head: bytes, runs: Sequence[Run]) -> None:
        items = max(0, sum(run.size for run in runs) - 1)
        length = len(head) + items + len(encoding.LIST_END)
        super().__init__(media_type=JSON, headers={"Content-Length": str(length)})
        self._head = head
        self._runs = runs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = self.raw_headers
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        body: Send = scope["send_body"]
        for part in self._parts():
            await body({"type": "http.response.body", "body": part, "more_body": True})
        # The client has all of it with this: nothing may follow that has to wait.
        await body({"type": "http.response.body", "body": encoding.LIST_END})

    def _parts(self) -> Iterator[bytes]:
        yield self._head
        for index, run in enumerate(self._runs):
            yield run.encode() if index else run.encode()[1:]

    def whole(self) -> bytes:
        return b"".join((*self._parts(), encoding.LIST_END))


class Yaml(Response):
    """YAML, which takes long to write: in a thread, and when it is sent or `made` before that."""

    media_type = YAML

    def __init__(self, obj: Any, code: int) -> None:
        self.status_code = code
        self.background = None
        self.raw_headers = [(b"content-type", YAML.encode())]
        self._obj = obj
        self._json: bytes | None = None

    async def made(self, accept_encoding: str = "") -> "Yaml":
        """Compressed where that pays and the client takes it."""
        if self._json is None:
            await asyncio.to_thread(self._make, "gzip" in accept_encoding)
        return self

    def _make(self, gzipped: bool) -> None:
        self.body = encoding.yaml_dump(self._obj)
        if gzipped and len(self.body) > COMPRESS_FROM:
            self.body = gzip.compress(self.body, 1, mtime=0)
            self.headers.update(COMPRESSED)
        self.headers["Content-Length"] = str(len(self.body))
        self._json, self._obj = orjson.dumps(self._obj), None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.made()
        if "failure" in scope:  # the audit, which need not read YAML
            scope[ANSWERED] = self._json
        await super().__call__(scope, receive, send)


def failure(error: status.StatusError, output: Output) -> Response:
    """A Status, never as a Table, whatever was asked for: every client reads it."""
    if output.media == YAML:
        told = encoding.yaml_dump(error.as_json())
        response = Response(told, status_code=error.code, media_type=YAML)
    else:
        response = _rendered(error.as_json(), output, error.code)
    response.headers.update(error.headers)
    if error.retry_after:
        response.headers["Retry-After"] = str(error.retry_after)
    if error.code == 403:
        response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def document(body: Any, *, code: int = 200, pretty: bool = False) -> Response:
    """A JSON document that is no stored object, such as discovery."""
    return Json(encoding.pretty(body) if pretty else encoding.dumps(body) + b"\n", code)


def stored(
    data: bytes,
    resource: Resource,
    output: Output,
    *,
    now: float,
    code: int = 200,
) -> Response:
    """One object. Plain JSON carries the stored bytes; anything else decodes them."""
    if output.media == JSON and not output.transform and not output.pretty:
        return Json(data + b"\n", code)
    obj = orjson.loads(data)
    if output.transform:
        obj = transform(resource, output, now=now)(obj)
    return _rendered(obj, output, code)


def transform(
    resource: Resource, output: Output, *, now: float, headers: bool = True
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """How one object becomes what `Accept: …;as=…` asks for. 406 for a list of it."""
    if output.transform == "PartialObjectMetadataList":
        error = status.not_acceptable([JSON, YAML])
        error.message = (
            "you requested PartialObjectMetadataList, but the requested object is not a list"
            f" ({resource.kind})"
        )
        raise error

    def convert(obj: dict[str, Any]) -> dict[str, Any]:
        if output.transform == "PartialObjectMetadata":
            partial: dict[str, Any] = table.partial_metadata(obj, version=output.version)
            return partial
        made: dict[str, Any] = table.table(
            resource,
            [obj],
            list_meta={"resourceVersion": obj["metadata"].get("resourceVersion", "")},
            include=output.include,
            version=output.version,
            now=now,
            headers=headers,
        )
        return made

    return convert


def listing(found: Listing, resource: Resource, output: Output, *, now: float) -> Response:
    """A list. Plain JSON joins stored bytes; a Table or metadata list decodes each object."""
    if not output.transform and output.media == JSON and not output.pretty:
        return _items(found, resource)
    meta: dict[str, Any] = {"resourceVersion": str(found.revision)}
    if found.token:
        meta["continue"] = found.token
    if found.remaining:
        meta["remainingItemCount"] = found.remaining
    if output.transform == "PartialObjectMetadata":
        error = status.not_acceptable([JSON, YAML])
        error.message = (
            "you requested PartialObjectMetadata, but the requested object is a list"
            f" ({resource.list_kind})"
        )
        raise error
    if output.transform == "Table":
        objects = [item.parse() for item in found.items]
        body = table.table(
            resource,
            objects,
            list_meta=meta,
            include=output.include,
            version=output.version,
            now=now,
        )
    elif output.transform:
        objects = [item.parse() for item in found.items]
        body = table.partial_metadata_list(objects, list_meta=meta, version=output.version)
    else:
        body = orjson.loads(_items(found, resource).whole())
    return _rendered(body, output, 200)


def list_of(items: Iterable[bytes], resource: Resource, revision: int) -> Response:
    """The list that deletecollection answers with."""
    head = encoding.list_head(resource.list_kind, resource.api_version, revision, "", None)
    return Json(b"".join((head, b",".join(items), encoding.LIST_END)))


def compressible(response: Response, accept_encoding: str) -> bool:
    """Whether a body is so large, and the client such, that it is sent compressed."""
    if "gzip" not in accept_encoding:
        return False
    return int(response.headers["content-length"]) > COMPRESS_FROM


async def compressed(response: Response) -> Response:
    """The same, compressed in a thread (`writers.go`)."""
    content = await asyncio.to_thread(_compressed, response)
    return Response(content, response.status_code, COMPRESSED, response.media_type)


def _compressed(response: Response) -> bytes:
    body = response.whole() if isinstance(response, Items) else bytes(response.body)
    return gzip.compress(body, 1, mtime=0)


def with_warnings(response: Response, warnings: Iterable[str]) -> Response:
    """One `Warning: 299` header for each text; duplicates once (`filters/warning.go`)."""
    texts = list(dict.fromkeys(warnings))
    if sum(map(len, texts)) > WARNINGS_LIMIT:
        texts = [text[:WARNING_LIMIT] for text in texts]
    for text in texts:
        quoted = "".join(
            char if char.isprintable() else " " for char in text.replace("\\", "\\\\")
        ).replace('"', '\\"')
        response.raw_headers.append((b"warning", f'299 - "{quoted}"'.encode()))
    return response


def _items(found: Listing, resource: Resource) -> Items:
    head = encoding.list_head(
        resource.list_kind, resource.api_version, found.revision, found.token, found.remaining
    )
    return Items(head, [Run.of(found.items)] if found.runs is None else found.runs)


def _rendered(obj: Any, output: Output, code: int) -> Response:
    if output.media == YAML:
        return Yaml(obj, code)
    return Json(encoding.pretty(obj) if output.pretty else encoding.dumps(obj) + b"\n", code)
