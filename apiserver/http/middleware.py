"""What every response carries, and how every failure becomes a Status. Pure ASGI.

Outermost: an audit id, no caching unless the handler says otherwise, in-flight limits, and an
answer in JSON for whatever goes wrong below.
"""

import uuid

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import storage
from apiserver.api import status
from apiserver.http import responses

CACHE = (b"cache-control", b"no-cache, private")

log = structlog.get_logger()


class Envelope:
    """Wraps the application. A failure after the response began can only cut the connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        audit = _audit_id(scope)
        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = [*message.get("headers", ()), (b"audit-id", audit)]
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append(CACHE)
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            if begun:
                raise
            failure = _status(error, audit)
            await responses.failure(failure)(scope, receive, send_with_headers)


def _audit_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"audit-id":
            given: bytes = value
            return given[:64]
    return str(uuid.uuid4()).encode()


def _status(error: Exception, audit: bytes) -> status.StatusError:
    """The Status of any failure; one that nobody foresaw is logged with its trace."""
    if isinstance(error, status.StatusError):
        return error
    if isinstance(error, storage.Unavailable):
        log.warning("storage unavailable", error=str(error), audit=audit.decode("latin-1"))
        return status.unavailable("the storage of this server cannot be reached; try again")
    log.error("request failed", audit=audit.decode("latin-1"), exc_info=error)
    return status.internal("the request failed in a way that was not foreseen; see the log")
