"""Pages of other sites that may use the server: cross-origin resource sharing.

k8s.io/apiserver `pkg/server/filters/cors.go`. It stands around the envelope, before users are
known, because a browser asks without credentials whether it may ask with them. Without the flag it
is not there.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apiserver.api.identity import new_uid
from apiserver.api.origins import Origins

ORIGIN = 300  # bytes; a scheme, a name of 253, which is the longest of DNS, and a port are shorter
HEADERS = [
    (b"access-control-allow-methods", b"POST, GET, OPTIONS, PUT, DELETE, PATCH"),
    (
        b"access-control-allow-headers",
        b"Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization,"
        b" X-Requested-With, If-Modified-Since",
    ),
    # Upstream exposes the first alone; the others are what kubectl acts on.
    (b"access-control-expose-headers", b"Date, Warning, Retry-After, Audit-Id"),
    (b"access-control-allow-credentials", b"true"),
    (b"vary", b"Origin"),
]


class Cors:
    """Says to the browser what it may let a page see, where that page is allowed to ask."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fields = dict(scope["headers"]) if scope["type"] in ("http", "websocket") else {}
        origin = fields.get(b"origin", b"")
        if not 0 < len(origin) <= ORIGIN or not self._allows(origin.decode("latin-1")):
            await self._app(scope, receive, send)
            return
        added = [(b"access-control-allow-origin", origin), *HEADERS]
        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            audit = fields.get(b"audit-id") or new_uid().encode()
            headers = [*added, (b"cache-control", b"no-cache, private"), (b"audit-id", audit)]
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        scope["cors"] = True

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await self._app(scope, receive, answer)

    def _allows(self, origin: str) -> bool:
        return any(allowed.search(origin) for allowed in self._origins)
