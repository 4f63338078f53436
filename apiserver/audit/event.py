"""The audit event of one stage of a request, word for word as kube-apiserver writes it.

Pure; k8s.io/apiserver `pkg/audit/request.go`, `pkg/apis/audit/v1/types.go` for the order of the
fields, `pkg/audit/format.go` for the legacy line.
"""

import ipaddress
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from apiserver.auth.attributes import Attributes
from apiserver.auth.user import User

AGENT_LIMIT = 1024  # characters of a User-Agent; what is longer is cut
CUT = "...TRUNCATED"
STATUS = ("status", "message", "reason", "details")
TYPE = frozenset({"kind", "apiVersion"})
TRUNCATED = "audit.k8s.io/truncated"

Json = dict[str, Any]


@dataclass(slots=True)
class Record:
    """What is known of a request so far. Times are Unix seconds.

    `ref` is the objectRef, without one for a path that is no resource; `user` is None where nobody
    was authenticated.
    """

    level: str
    audit_id: str
    uri: str
    verb: str
    user: User | None
    addresses: list[str]
    agent: str
    received: float
    ref: Json | None = None
    status: Json | None = None
    request: Any = None
    response: Any = None
    annotations: dict[str, str] = field(default_factory=dict)

    def at(self, stage: str, moment: float) -> Json:
        """The event of a stage."""
        event: Json = {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": self.level,
            "auditID": self.audit_id,
            "stage": stage,
            "requestURI": self.uri,
            "verb": self.verb,
            "user": _user(self.user),
        }
        if self.addresses:
            event["sourceIPs"] = self.addresses
        if self.agent:
            event["userAgent"] = _cut(self.agent)
        if self.ref is not None:
            event["objectRef"] = {key: self.ref[key] for key in REF if self.ref.get(key)}
        if self.status is not None:
            event["responseStatus"] = self.status
        if self.request is not None:
            event["requestObject"] = self.request
        if self.response is not None:
            event["responseObject"] = self.response
        event["requestReceivedTimestamp"] = timestamp(self.received)
        event["stageTimestamp"] = timestamp(moment)
        if self.annotations:
            event["annotations"] = dict(sorted(self.annotations.items()))
        return event

    def name(self, obj: Any) -> None:
        """Complete the objectRef from the object of the request, as far as the URL is silent."""
        meta = obj.get("metadata") if isinstance(obj, dict) else None
        if self.ref is None or not isinstance(meta, dict):
            return
        for key in ("namespace", "name", "uid", "resourceVersion"):
            if not self.ref.get(key) and isinstance(meta.get(key), str):
                self.ref[key] = meta[key]


REF = (
    "resource", "namespace", "name", "uid", "apiGroup", "apiVersion", "resourceVersion",
    "subresource",
)  # fmt: skip


def reference(wanted: Attributes) -> Json | None:
    """The objectRef of what a request wants."""
    if not wanted.resource:
        return None
    return {
        "resource": wanted.resource,
        "namespace": wanted.namespace,
        "name": wanted.name,
        "apiGroup": wanted.group,
        "apiVersion": wanted.version,
        "subresource": wanted.subresource,
    }


def outcome(code: int, found: Mapping[str, Any] | None = None) -> Json:
    """The responseStatus: an HTTP code, and of a Status that was answered what is not its size."""
    told = {key: found[key] for key in STATUS if found.get(key)} if found else {}
    return {"metadata": {}, **told, "code": code}


def source_addresses(forwarded: str, real: str, peer: str) -> list[str]:
    """`X-Forwarded-For`, then `X-Real-Ip`, then the peer, each unless it stands there already.

    k8s.io/apimachinery `pkg/util/net/http.go`. All but the last are whatever the client says.
    """
    chain = [found for part in forwarded.split(",") if (found := _address(part.strip()))]
    nearest = _address(real.strip())
    if nearest and nearest not in chain:
        chain.append(nearest)
    last = _address(peer)
    if last and chain[-1:] != [last]:
        chain.append(last)
    return chain


def without_managed_fields(obj: Any) -> Any:
    """An object, a list or a Table without `metadata.managedFields`; changed in place."""
    if isinstance(obj, dict):
        parts: Iterable[Any] = [obj]
        if isinstance(items := obj.get("items"), list):
            parts = [obj, *items]
        elif isinstance(rows := obj.get("rows"), list):
            parts = [row.get("object") for row in rows if isinstance(row, dict)]
        for part in parts:
            meta = part.get("metadata") if isinstance(part, dict) else None
            if isinstance(meta, dict):
                meta.pop("managedFields", None)
    return obj


def timestamp(seconds: float) -> str:
    """RFC 3339 in microseconds."""
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat(timespec='microseconds')[:-6]}Z"


def as_json(event: Json) -> bytes:
    """One line."""
    return orjson.dumps(event) + b"\n"


def as_item(event: Json) -> bytes:
    """As it stands in an EventList, which says what its items are."""
    return orjson.dumps({key: event[key] for key in event if key not in TYPE})


def as_legacy(event: Json) -> bytes:
    """The line of text of `--audit-log-format legacy`."""
    user = event["user"]
    groups = ",".join(map(_quoted, user.get("groups", ()))) if user.get("username") else ""
    fields = {
        "id": event["auditID"],
        "stage": event["stage"],
        "ip": event.get("sourceIPs", ["<unknown>"])[0],
        "method": event["verb"],
        "user": user.get("username") or "<none>",
        "groups": groups or "<none>",
        "as": "<self>",
        "asgroups": "<lookup>",
        "user-agent": event.get("userAgent", ""),
        "namespace": event.get("objectRef", {}).get("namespace") or "<none>",
        "uri": event["requestURI"],
        "response": str(event.get("responseStatus", {}).get("code", "<deferred>")),
    }
    told = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
    return f"{event['requestReceivedTimestamp']} AUDIT: {told}\n".encode()


def _user(user: User | None) -> Json:
    if user is None:
        return {}
    return {"username": user.name, **user.details()}


def _cut(agent: str) -> str:
    return agent if len(agent) <= AGENT_LIMIT else agent[:AGENT_LIMIT] + CUT


@lru_cache(maxsize=1024)  # the same few proxies and nodes, again and again
def _address(text: str) -> str:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return ""
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
