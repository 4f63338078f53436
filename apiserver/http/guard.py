"""Who may pass: the envelope asks it on every request, before anything else is told.

In standalone mode there is none, because it listens on loopback and knows no users.
"""

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

from starlette.types import Scope

from apiserver.api import latency, selectors, status
from apiserver.api.selectors import Requirement
from apiserver.auth.attributes import Attributes
from apiserver.auth.authenticate import Authenticator, Unauthenticated
from apiserver.auth.authorize import Authorizer, Undecided
from apiserver.auth.user import User
from apiserver.http.request_info import RequestInfo

SELECTIVE = frozenset({"list", "watch", "deletecollection"})
NAMED_BY_FIELD = frozenset({"list", "watch"})

Requirements = tuple[Requirement, ...]


class Guard:
    """Authenticates and authorizes in the words of k8s.io/apiserver."""

    def __init__(self, authenticator: Authenticator, authorizer: Authorizer) -> None:
        self._authenticator = authenticator
        self._authorizer = authorizer
        self.attempts: Counter[str] = Counter()
        self.users: Counter[str] = Counter()
        self.decisions: Counter[str] = Counter()

    async def identify(self, scope: Scope) -> User:
        """401. The user is found in `scope["user"]` from then on."""
        if any(name.startswith(b"impersonate-") for name, _ in scope["headers"]):
            raise status.StatusError(
                403,
                "Forbidden",
                "forbidden: this server impersonates nobody; kube-apiserver does: ask through it",
                {},
            )
        try:
            with latency.Span("authentication"):
                user: User = await self._authenticator.authenticate(scope)
        except Unauthenticated as error:
            scope["tried"] = error.tried
            self.attempts["failure"] += 1
            raise status.unauthorized() from error
        scope["user"] = user
        self.attempts["success"] += 1
        self.users[_kind(user)] += 1
        return user

    async def admit(self, scope: Scope, info: RequestInfo | None, verb: str = "") -> None:
        """403; 503 where nobody can say. `verb` is another than that of the request."""
        wanted = attributes(scope, info)
        if verb:
            wanted = wanted._replace(verb=verb)
        user: User = scope["user"]
        try:
            with latency.Span("authorization"):
                decision = await self._authorizer.authorize(user, wanted)
        except Undecided as error:
            scope["undecided"] = True
            self.decisions["error"] += 1
            raise status.unavailable(
                f"the cluster cannot be asked whether this is allowed: {wanted.refusal(user.name)}"
                " until it can; try again"
            ) from error
        scope["decision"] = decision
        self.decisions["allowed" if decision.allowed else "denied"] += 1
        if not decision.allowed:
            why = ": ".join(filter(None, (wanted.refusal(user.name), decision.reason)))
            if info is None:
                raise status.StatusError(403, "Forbidden", f"forbidden: {why}", {})
            raise status.forbidden(info.resource, wanted.name, why)


def _kind(user: User) -> str:
    """Few names, whoever there is (`compressUsername`)."""
    name = user.name.rpartition(":")[2]
    if name in ("admin", "client", "kube_proxy", "kubelet", "system"):
        return name
    return "email_id" if "@" in name else "other"


def attributes(scope: Scope, info: RequestInfo | None) -> Attributes:
    """What a request wants; one for a path that is no resource is named by its method.

    Selectors count as for `pkg/endpoints/request/requestinfo.go`: not below `/watch/`.
    """
    if info is None:
        method: Any = scope.get("method", "GET")
        return Attributes(method.lower(), path=scope["path"])
    name = info.name
    fields: Requirements = ()
    labels: Requirements = ()
    if info.verb in SELECTIVE and not info.prefixed:
        fields = _required(selectors.requirements_of_fields, scope["query"].get("fieldSelector"))
        labels = _required(_labels, scope["query"].get("labelSelector"))
        if not name and info.verb in NAMED_BY_FIELD:
            name = _named(fields)
    resource = info.resource
    return Attributes(
        verb=info.verb,
        namespace=info.namespace,
        group=resource.group,
        version=resource.version,
        resource=resource.plural,
        subresource=info.subresource,
        name=name,
        fields=fields,
        labels=labels,
    )


def _labels(text: str) -> Requirements:
    return tuple(sorted(selectors.parse_labels(text).requirements))


def _required(parse: Callable[[str], Requirements], text: str | None) -> Requirements:
    """Nothing where it cannot be read: more than what it would pick is then asked for."""
    if not text:
        return ()
    with contextlib.suppress(status.StatusError):
        return parse(text)
    return ()


def _named(fields: Requirements) -> str:
    """The name that a field selector asks for, if it can be one in a path."""
    for key, operator, values in fields:
        if key == "metadata.name" and operator == "In":
            name = values[0]
            return "" if name in (".", "..") or "/" in name or "%" in name else name
    return ""
