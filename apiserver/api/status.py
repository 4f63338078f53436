"""Errors by meaning, and the Status object that each becomes on the wire.

Any part of the server raises a `StatusError`; only `apiserver.http` turns one into a response.
Texts and reasons are those of k8s.io/apimachinery `pkg/api/errors`, which clients match on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from apiserver.api.resource import Resource


@dataclass(frozen=True, slots=True)
class Cause:
    """One entry of `details.causes`; `message` does not repeat the field."""

    reason: str
    message: str
    field: str = ""

    def as_json(self) -> dict[str, str]:
        body = {"reason": self.reason, "message": self.message, "field": self.field}
        return {key: value for key, value in body.items() if value}


@dataclass(slots=True)
class StatusError(Exception):
    """A failure with its HTTP code, machine-readable reason and details."""

    code: int
    reason: str
    message: str
    details: dict[str, Any] | None = None
    causes: Sequence[Cause] = ()
    retry_after: int = 0
    continue_token: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def as_json(self) -> dict[str, Any]:
        """The Status, its keys in upstream's order."""
        metadata = {"continue": self.continue_token} if self.continue_token else {}
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            body["reason"] = self.reason
        details = dict(self.details) if self.details is not None else None
        if self.causes or self.retry_after:
            details = details or {}
            if self.causes:
                details["causes"] = [cause.as_json() for cause in self.causes]
            if self.retry_after:
                details["retryAfterSeconds"] = self.retry_after
        if details is not None:
            body["details"] = details
        body["code"] = self.code
        return body


class NotFound(StatusError):
    """The store has no such object; not somebody else's word that there is none."""


class AlreadyExists(StatusError):
    """The store has an object of that name."""


def _named(resource: Resource, name: str, *, kind: str = "") -> dict[str, str]:
    details = {"name": name, "group": resource.group, "kind": kind or resource.plural}
    return {key: value for key, value in details.items() if value}


def unauthorized() -> StatusError:
    return StatusError(401, "Unauthorized", "Unauthorized")


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def not_found(resource: Resource, name: str) -> NotFound:
    return NotFound(
        404, "NotFound", f'{resource.qualified} "{name}" not found', _named(resource, name)
    )


def unknown_path() -> StatusError:
    return StatusError(
        404, "NotFound", "the server could not find the requested resource", details={}
    )


def method_not_allowed(allowed: str) -> StatusError:
    """405; `allowed` lists the methods that the path takes, as the Allow header does."""
    return StatusError(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
        details={},
        headers={"Allow": allowed},
    )


def already_exists(resource: Resource, name: str, *, prefix: str = "") -> AlreadyExists:
    return AlreadyExists(
        409,
        "AlreadyExists",
        f'{prefix}{resource.qualified} "{name}" already exists',
        _named(resource, name),
    )


MODIFIED = (
    "the object has been modified; please apply your changes to the latest version and try again"
)


def conflict(resource: Resource, name: str, why: str = MODIFIED, *, kind: str = "") -> StatusError:
    subject = f"{kind}.{resource.group}".rstrip(".") if kind else resource.qualified
    return StatusError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {subject} "{name}": {why}',
        _named(resource, name, kind=kind),
    )


def forbidden(resource: Resource, name: str, why: str, causes: Sequence[Cause] = ()) -> StatusError:
    subject = f'{resource.qualified} "{name}"' if name else resource.qualified
    return StatusError(
        403, "Forbidden", f"{subject} is forbidden: {why}", _named(resource, name), causes
    )


def expired(message: str, *, continue_token: str = "") -> StatusError:
    return StatusError(410, "Expired", message, continue_token=continue_token)


def entity_too_large(why: str) -> StatusError:
    return StatusError(413, "RequestEntityTooLarge", f"Request entity too large: {why}", details={})


def too_large(limit: int) -> StatusError:
    return entity_too_large(f"limit is {limit}")


def not_acceptable(accepted: Sequence[str]) -> StatusError:
    types = ", ".join(accepted)
    return StatusError(
        406, "NotAcceptable", f"only the following media types are accepted: {types}", details={}
    )


def unsupported_media_type(accepted: Sequence[str]) -> StatusError:
    return StatusError(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: "
        + ", ".join(accepted),
        details={},
    )


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> StatusError:
    """422: one cause per field, each message in the aggregate prefixed with its field."""
    texts = [
        f"{cause.field}: {cause.message}" if cause.field else cause.message for cause in causes
    ]
    joined = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    subject = f"{kind}.{group}" if group else kind
    details = {"name": name, "group": group, "kind": kind}
    return StatusError(
        422,
        "Invalid",
        f'{subject} "{name}" is invalid: {joined}',
        {key: value for key, value in details.items() if value},
        causes,
    )


def invalid_options(options: str, *causes: Cause) -> StatusError:
    """422 on the query or DeleteOptions: `CreateOptions.meta.k8s.io "" is invalid: …`."""
    return invalid(options, "meta.k8s.io", "", causes)


def internal(message: str) -> StatusError:
    return StatusError(
        500,
        "InternalError",
        f"Internal error occurred: {message}",
        {},
        [Cause("", message)],
    )


def unavailable(message: str) -> StatusError:
    return StatusError(503, "ServiceUnavailable", message, details={}, retry_after=1)


def too_many_requests() -> StatusError:
    return StatusError(
        429,
        "TooManyRequests",
        "Too many requests, please try again later.",
        details={},
        retry_after=1,
    )


def not_ready() -> StatusError:
    """429 of a cache that is not filled: better than an answer that lets things look deleted."""
    return StatusError(
        429, "TooManyRequests", "storage is (re)initializing", details={}, retry_after=1
    )


def timed_out() -> StatusError:
    return StatusError(
        504,
        "Timeout",
        "Timeout: request did not complete within the allotted timeout",
        details={},
    )


def future_revision(revision: int, current: int) -> StatusError:
    """504 that client-go's reflector recognises by its cause, and then relists."""
    return StatusError(
        504,
        "Timeout",
        f"Timeout: Too large resource version: {revision}, current: {current}",
        {},
        [Cause("ResourceVersionTooLarge", "Too large resource version")],
        retry_after=1,
    )
