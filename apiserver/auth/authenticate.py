"""Who asks: the front proxy, a client certificate, a bearer token, or nobody.

The order and the rules are k8s.io/apiserver's (`pkg/authentication/authenticatorfactory`): the
first that knows the client wins; credentials that are wrong are a 401 unless others are right.
"""

import base64
import binascii
import time
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import unquote

import structlog
from starlette.types import Scope

from apiserver.auth.peer import Peer
from apiserver.auth.tokens import Tokens
from apiserver.auth.trust import Proxy, Trust
from apiserver.auth.user import ANONYMOUS, User

CREDENTIAL = "authentication.kubernetes.io/credential-id"
WEBSOCKET_TOKEN = "base64url.bearer.authorization.k8s.io."

Headers = list[tuple[bytes, bytes]]

log = structlog.get_logger()


class Unauthenticated(Exception):
    """Credentials came, and none of them holds. `tried` are the methods, as the audit tells."""

    def __init__(self, tried: Iterable[str], why: str) -> None:
        super().__init__(why)
        self.tried = tuple(tried)


class Authenticator:
    """`trust` gives what is believed at the moment; `tokens` is None where none can be checked."""

    def __init__(
        self,
        *,
        trust: Callable[[], Trust],
        tokens: Tokens | None,
        anonymous: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._trust = trust
        self._tokens = tokens
        self._anonymous = anonymous
        self._clock = clock

    async def authenticate(self, scope: Scope) -> User:
        """The user of a request, whose credentials are taken out of it. `Unauthenticated`."""
        headers, wrong = scope["headers"], dict[str, str]()
        trust = self._trust()
        peer: Peer | None = scope.get("peer")
        user: User | None = None
        if peer is not None:
            try:
                user = self._certified(peer, trust, headers)
            except ValueError as error:
                wrong["x509"] = str(error)
        if user is None:
            user = await self._by_token(scope, wrong)
        _strip(scope, trust.proxy)
        if user is not None:
            return user.authenticated()
        if wrong or not self._anonymous:
            why = "; ".join(f"{method}: {text}" for method, text in wrong.items())
            log.warning("unable to authenticate the request", why=why or "no credentials came")
            raise Unauthenticated(wrong, why)
        return ANONYMOUS

    def _certified(self, peer: Peer, trust: Trust, headers: Headers) -> User:
        """`ValueError` where the certificate is nobody's, or not any more."""
        if peer.expires <= self._clock():
            raise ValueError("certificate has expired")
        stranger = ""
        if peer.signed_by(trust.proxy.authorities):
            names = trust.proxy.names
            if names and peer.common_name not in names:
                stranger = f"subject with cn={peer.common_name} is not in the allowed list"
            elif (user := named_in_headers(headers, trust.proxy)) is not None:
                return user
            else:
                stranger = "the front proxy named no user"
        if peer.signed_by(trust.clients):
            if not peer.common_name:
                raise ValueError("the certificate has no common name")
            identity = {CREDENTIAL: (f"X509SHA256={peer.fingerprint}",)}
            return User(peer.common_name, groups=peer.organizations, extra=identity)
        raise ValueError(stranger or "certificate signed by unknown authority")

    async def _by_token(self, scope: Scope, wrong: dict[str, str]) -> User | None:
        token = _bearer(scope)
        if not token or self._tokens is None:
            return None
        try:
            return await self._tokens.user(token)
        except ValueError as error:
            wrong["bearer"] = str(error)
        return None


def named_in_headers(headers: Headers, proxy: Proxy) -> User | None:
    """Whom the front proxy names (`headerrequest/requestheader.go`); a group may hold a comma.

    `ValueError` where a header is no UTF-8.
    """
    wanted, prefixes = {*proxy.username, *proxy.uid, *proxy.group}, proxy.extra
    values: dict[str, list[str]] = {}
    for header, value in headers:
        key = header.decode("latin-1")
        # Go writes a name as it is, in UTF-8; what is none of it names nobody.
        if (key in wanted or key.startswith(prefixes)) and (text := value.decode()):
            values.setdefault(key, []).append(text)
    username = _first(values, proxy.username)
    if not username:
        return None
    extra: dict[str, tuple[str, ...]] = {}
    for name, found in values.items():
        for prefix in prefixes:
            if name.startswith(prefix):
                key = unquote(name[len(prefix) :])
                extra[key] = (*extra.get(key, ()), *found)
    groups = tuple(group for name in proxy.group for group in values.get(name, ()))
    return User(username, _first(values, proxy.uid), groups, extra)


def _first(values: dict[str, list[str]], names: tuple[str, ...]) -> str:
    return next((values[name][0] for name in names if name in values), "")


def _bearer(scope: Scope) -> str:
    """The token of the request, or of a WebSocket's subprotocol, which browsers can set."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else ""
    for name in _subprotocols(scope):
        if name.startswith(WEBSOCKET_TOKEN):
            encoded = name.removeprefix(WEBSOCKET_TOKEN)
            try:
                return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
            except (binascii.Error, UnicodeDecodeError):
                return ""
    return ""


def _subprotocols(scope: Scope) -> list[str]:
    found: list[str] = scope.get("subprotocols") or []
    return found


def _strip(scope: Scope, proxy: Proxy) -> None:
    """Nothing below is to see credentials, or take a header for what only the proxy may say."""
    owned = {b"authorization", *_encoded(proxy.username, proxy.uid, proxy.group)}
    prefixes = tuple(_encoded(proxy.extra)) or (b"x-remote-extra-",)
    owned |= {b"x-remote-user", b"x-remote-uid", b"x-remote-group"}
    headers: Headers = scope["headers"]
    kept = [(n, v) for n, v in headers if n not in owned and not n.startswith(prefixes)]
    if len(kept) != len(headers):
        scope["headers"], scope["fields"] = kept, dict(kept)
    if any(name.startswith(WEBSOCKET_TOKEN) for name in _subprotocols(scope)):
        scope["subprotocols"] = [
            name for name in _subprotocols(scope) if not name.startswith(WEBSOCKET_TOKEN)
        ]


def _encoded(*names: tuple[str, ...]) -> Iterator[bytes]:
    return (name.encode("latin-1") for group in names for name in group)
