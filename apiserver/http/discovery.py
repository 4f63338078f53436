"""Discovery, OpenAPI and version: the low-rate routes that clients read before all else.

FastAPI routes, added to the application in `apiserver.app`. Every document is built once, at
start, and answered with its ETag.
"""

import gzip
import hashlib
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from importlib import metadata
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from apiserver.api import discovery, encoding, openapi, openapi_protobuf, status
from apiserver.api.resource import Resource
from apiserver.http import negotiation, responses
from apiserver.http.negotiation import JSON

PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
PROTOBUF_ASKED = (PROTOBUF, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
YEAR = 365 * 24 * 3600
GZIP_FROM = 1024  # bytes


@dataclass(frozen=True, slots=True)
class Document:
    """An immutable answer with its ETag: the upper-case hex SHA-512 of the JSON."""

    content: bytes
    media: str
    etag: str

    @classmethod
    def of(cls, body: Any, media: str = JSON) -> "Document":
        content = encoding.dumps(body)
        return cls(content, media, hashlib.sha512(content).hexdigest().upper())

    def answer(self, request: Request, headers: dict[str, str]) -> Response:
        """304 where the client has it already; compressed where it can take that."""
        headers = {
            "Etag": f'"{self.etag}"',
            "Vary": "Accept, Accept-Encoding",
            "Accept-Ranges": "bytes",
            **headers,
        }
        if request.headers.get("if-none-match") == headers["Etag"]:
            return Response(status_code=304, headers=headers)
        content = self.content
        if len(content) > GZIP_FROM and "gzip" in request.headers.get("accept-encoding", ""):
            content = gzip.compress(content, compresslevel=1, mtime=0)
            headers["Content-Encoding"] = "gzip"
        response = Response(content, headers=headers)
        response.headers["Content-Type"] = self.media
        return response


def version() -> dict[str, str]:
    """What `kubectl version` prints; `gitVersion` must be semantic."""
    number = metadata.version("networkpolicys")
    major, minor, *_ = number.split(".")
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"v{number}",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": f"CPython {sys.version.split()[0]}",
        "platform": f"{platform.system().lower()}/{platform.machine()}",
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": minor,
    }


Handler = Callable[..., Awaitable[Response]]


def _router() -> tuple[APIRouter, Callable[..., Callable[[Handler], Handler]]]:
    """A router, and a decorator that serves a function at some paths, to GET and HEAD."""
    routes = APIRouter()

    def route(*paths: str) -> Callable[[Handler], Handler]:
        def add(handler: Handler) -> Handler:
            for path in paths:
                routes.add_api_route(path, handler, methods=["GET", "HEAD"])
            return handler

        return add

    return routes, route


def router(resources: Sequence[Resource]) -> APIRouter:
    """All discovery paths for a set of resources, each with and without a trailing slash."""
    routes, route = _router()
    groups = {(r.group, r.version): r.root for r in resources}
    _add_discovery(route, resources, groups)
    _add_openapi(route, resources)

    @route("/version", "/version/")
    async def get_version() -> Response:
        return responses.document(version(), pretty=True)

    return routes


class Index:
    """The paths that are served: `/` gives them, and so does every path that is not (404)."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        paths = {route.path for route in routes if isinstance(route, Route)}
        self._paths = sorted(path for path in paths if "{" not in path)

    async def found(self, request: Request) -> Response:
        return responses.document({"paths": self._paths}, pretty=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = responses.document({"paths": self._paths}, code=404, pretty=True)
        await response(scope, receive, send)


def _add_discovery(
    route: Callable[..., Callable[[Handler], Handler]],
    resources: Sequence[Resource],
    groups: dict[tuple[str, str], str],
) -> None:
    core = [r for r in resources if not r.group]
    named = [r for r in resources if r.group]
    aggregated = {
        (path, version): Document.of(
            discovery.group_discovery_list(listed, version=version),
            f"{JSON};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList",
        )
        for path, listed in (("/api", core), ("/apis", named))
        for version in ("v2", "v2beta1")
    }

    def root(path: str, request: Request, plain: Any) -> Response:
        accept = request.headers.get("accept", "")
        for clause in negotiation.clauses(accept) or negotiation.clauses("*/*"):
            version = clause.parameters.get("v", "")
            if clause.parameters.get("as") == "APIGroupDiscoveryList":
                if (document := aggregated.get((path, version))) is not None:
                    return document.answer(request, {"Cache-Control": "public", "Vary": "Accept"})
            elif clause.media in (JSON, "*/*", "application/*"):
                return _plain(plain, request)
            elif clause.media == negotiation.YAML:
                return Response(encoding.yaml_dump(plain), media_type=negotiation.YAML)
        raise status.not_acceptable([JSON, negotiation.YAML])

    @route("/apis", "/apis/")
    async def get_groups(request: Request) -> Response:
        address = request.headers.get("host", "")
        return root("/apis", request, discovery.api_group_list(named, address=address))

    if core:

        @route("/api", "/api/")
        async def get_core(request: Request) -> Response:
            address = request.headers.get("host", "")
            return root("/api", request, discovery.api_versions(core, address=address))

    def serve(path: str, body: Any) -> None:
        async def answer(request: Request) -> Response:
            return _plain(body, request)

        route(path, path + "/")(answer)

    for group in {r.group for r in named}:
        serve(f"/apis/{group}", discovery.api_group([r for r in named if r.group == group]))
    for group_version, path in groups.items():
        listed = [r for r in resources if (r.group, r.version) == group_version]
        serve(path, discovery.api_resource_list(listed))


def _add_openapi(
    route: Callable[..., Callable[[Handler], Handler]], resources: Sequence[Resource]
) -> None:
    swagger = openapi.openapi_v2(resources)
    json = Document.of(swagger)
    protobuf = Document(openapi_protobuf.encode(swagger), PROTOBUF, json.etag)
    modified = {"Last-Modified": formatdate(usegmt=True)}
    versions = {
        path: Document.of(document) for path, document in openapi.documents_v3(resources).items()
    }
    index = Document.of(openapi.openapi_v3_index({k: d.etag for k, d in versions.items()}))

    @route("/openapi/v2")
    async def get_v2(request: Request) -> Response:
        accept = request.headers.get("accept", "") or "*/*"
        for clause in negotiation.clauses(accept):
            if clause.media in PROTOBUF_ASKED:
                return protobuf.answer(request, modified)
            if clause.media in (JSON, "*/*", "application/*"):
                return json.answer(request, modified)
        return Response(status_code=406)

    @route("/openapi/v3")
    async def get_v3(request: Request) -> Response:
        return index.answer(request, {})

    @route("/openapi/v3/{path:path}")
    async def get_v3_version(path: str, request: Request) -> Response:
        document = versions.get(path)
        if document is None:
            raise status.unknown_path()
        asked = request.query_params.get("hash")
        if asked is None:
            return document.answer(request, {})
        if asked != document.etag:
            return RedirectResponse(f"/openapi/v3/{path}?hash={document.etag}", 301)
        return document.answer(
            request,
            {
                "Cache-Control": "public, immutable",
                "Expires": formatdate(time.time() + YEAR, usegmt=True),
            },
        )


def _plain(body: Any, request: Request) -> Response:
    output = negotiation.output(
        request.headers.get("accept", "") or "*/*",
        agent=request.headers.get("user-agent", ""),
        pretty=request.query_params.get("pretty", ""),
    )
    if output.media == negotiation.YAML:
        return Response(encoding.yaml_dump(body), media_type=output.media)
    return responses.document(body, pretty=output.pretty)
