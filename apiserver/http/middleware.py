"""What every request passes and every response carries. Pure ASGI, outermost in the application.

The request is read once (`request_info`), let in by the limits, counted, and whatever goes wrong
below becomes a Status. Requests for resources go on past FastAPI's router: they are the hot path.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import storage
from apiserver.api import status
from apiserver.api.identity import new_uid
from apiserver.auth.user import MASTERS
from apiserver.http import negotiation, request_info, responses
from apiserver.http.limits import Limits
from apiserver.http.metrics import Asked, Metrics
from apiserver.http.request_info import RequestInfo, Served

if TYPE_CHECKING:
    from apiserver.http.audit import Auditor, Trail
    from apiserver.http.guard import Guard

CACHE = (b"cache-control", b"no-cache, private")
CLOSE = (b"connection", b"close")

log = structlog.get_logger()


class Envelope:
    """Wraps the application. A failure after the response began can only cut the connection.

    While `draining` is set, clients are asked to come back on another connection.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        served: Served,
        resources: ASGIApp,
        limits: Limits,
        metrics: Metrics,
        draining: asyncio.Event,
        guard: "Guard | None" = None,
        auditor: "Auditor | None" = None,
    ) -> None:
        self._app = app
        self._served = served
        self._resources = resources
        self._limits = limits
        self._metrics = metrics
        self._draining = draining
        self._guard = guard
        self._auditor = auditor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        received = time.perf_counter()
        fields = scope["fields"] = dict(scope["headers"])
        audit = scope["audit"] = fields.get(b"audit-id", b"")[:64] or new_uid().encode()
        trail = None if self._auditor is None else self._auditor.follow(scope, receive, send)
        if trail is not None:
            receive, send = trail.receive, trail.send
        code = 0
        scope["send_body"] = send  # nothing is done to a body, so streams pass this by

        async def answer(message: Message) -> None:
            nonlocal code
            if message["type"] in STARTS:
                code = message.get("status", 101)
                message = {**message, "headers": self._headers(message, audit)}
            await send(message)

        query = scope["query"] = first_values(scope["query_string"])
        try:
            if self._guard is None:
                _check_origin(scope, fields)
                info = self._parse(scope)
                app = self._app if info is None else self._resources
                if trail is not None:
                    trail.begin()
                    app = trail.before(app)
                await self._limits.run(
                    lambda: app(scope, receive, answer),
                    info,
                    query.get("timeout", ""),
                    exempt=scope["path"] in PROBES,
                )
            else:
                await self._guarded(self._guard, scope, receive, answer, trail)
        except Exception as error:
            if trail is not None:
                trail.failed(error)
            if code and (trail is None or not trail.withdrawn()):
                raise
            await _fail(error, scope, receive, answer)
        finally:
            if trail is not None:
                trail.end()
            del scope["send_body"]  # the server's own, which knows the scope: a cycle of all of it
            info = scope.get("request_info")
            asked = Asked.of(info, scope.get("method", "GET"), _applies(info, scope))
            dry_run = "All" if query.get("dryRun") == "All" else ""
            self._metrics.done(asked, dry_run, code, time.perf_counter() - received)

    async def _guarded(
        self, guard: "Guard", scope: Scope, receive: Receive, send: Send, trail: "Trail | None"
    ) -> None:
        """Nobody is told what there is, or is not, before they may ask for it."""
        info, refusal = None, None
        try:
            info = self._parse(scope)
        except status.StatusError as error:
            refusal = error
        user = await guard.identify(scope)
        if trail is not None:
            trail.begin()

        async def call() -> None:
            if trail is not None:
                await trail.received()
            await guard.admit(scope, info)
            if refusal is not None:
                raise refusal
            await (self._app if info is None else self._resources)(scope, receive, send)

        asked = scope["query"].get("timeout", "")
        exempt = MASTERS in user.groups or scope["path"] in PROBES
        await self._limits.run(call, info, asked, exempt=exempt)

    def _parse(self, scope: Scope) -> RequestInfo | None:
        method = scope.get("method", "GET")
        info = request_info.parse(method, scope["path"], scope["query"], self._served)
        scope["request_info"] = info
        if info is None and scope["type"] == "websocket":
            raise status.unknown_path()
        return info

    def _headers(self, message: Message, audit: bytes) -> list[tuple[bytes, bytes]]:
        headers = [*message.get("headers", ()), (b"audit-id", audit)]
        if not any(name == b"cache-control" for name, _ in headers):
            headers.append(CACHE)
        if self._draining.is_set():
            headers.append(CLOSE)
        return headers


# Asked by who would end the process where they are refused; they cost nothing.
PROBES = frozenset({"/healthz", "/livez", "/readyz"})
STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


def _check_origin(scope: Scope, fields: Mapping[bytes, bytes]) -> None:
    """403 for a page of another site: its browser may reach loopback, and asks nobody.

    What only reads is kept from such a page by the browser, but for WebSockets. Sites that a flag
    names are no strangers.
    """
    origin = fields.get(b"origin")
    if origin is None or scope.get("method") in ("GET", "HEAD") or scope.get("cors"):
        return
    if origin.partition(b"://")[2] != fields.get(b"host"):
        shown = origin.decode("latin-1")
        raise status.StatusError(
            403, "Forbidden", f"forbidden: pages of {shown} may not use this server", {}
        )


def first_values(query: bytes) -> dict[str, str]:
    """The query with the first value of each parameter, as Go's url.Values reads it."""
    if not query:
        return {}
    return dict(reversed(parse_qsl(query.decode("latin-1"), keep_blank_values=True)))


def failed(error: Exception, scope: Scope) -> Response:
    """Any failure as a response; one that nobody foresaw is logged with its trace."""
    fields = scope["fields"]
    output = negotiation.for_errors(
        fields.get(b"accept", b"").decode("latin-1"),
        agent=fields.get(b"user-agent", b"").decode("latin-1"),
        pretty=scope["query"].get("pretty", ""),
    )
    found = _status(error, scope["audit"])
    if "failure" in scope:  # the audit asks for it
        scope["failure"] = found
    return responses.with_warnings(responses.failure(found, output), scope.get("warnings", ()))


async def _fail(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    response = failed(error, scope)
    if scope["type"] == "websocket":
        # Before the handshake is answered, this is still HTTP.
        kind = "websocket.http.response"
        headers = response.raw_headers
        await send({"type": f"{kind}.start", "status": response.status_code, "headers": headers})
        await send({"type": f"{kind}.body", "body": response.body})
    else:
        await response(scope, receive, send)


def _applies(info: RequestInfo | None, scope: Scope) -> bool:
    if info is None or info.verb != "patch":
        return False
    media: bytes = scope["fields"].get(b"content-type", b"")
    return media.startswith(negotiation.APPLY_PATCH.encode())


def _status(error: Exception, audit: bytes) -> status.StatusError:
    """The Status of any failure; one that nobody foresaw is logged with its trace."""
    if isinstance(error, status.StatusError):
        return error
    if isinstance(error, storage.Unavailable):
        log.warning("storage unavailable", error=str(error), audit=audit.decode("latin-1"))
        return status.unavailable("the storage of this server cannot be reached; try again")
    log.error("request failed", audit=audit.decode("latin-1"), exc_info=error)
    return status.internal("the request failed in a way that was not foreseen; see the log")
