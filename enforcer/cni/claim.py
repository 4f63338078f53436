"""What a pod's sandbox has been given: the words that the wait socket understands. Pure.

The kubelet reports a pod's addresses only after CNI's ADD, so that the API cannot say which pod has
them while its first packet may already be on its way; a claim says it. One line of JSON is a
request, one line is the answer; docs/cni.md has the protocol.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import orjson

VERSION = 1  # of the protocol; another one is answered with UnsupportedVersion
LINE = 16 * 1024  # bytes; a claim with the longest names and MOST addresses has 4,000
MOST = 64  # addresses of one pod
LONGEST = 3600.0  # seconds that a request may wait

# RFC 1123, as the API demands it of the names of namespaces and pods.
_LABEL = re.compile(r"(?=.{1,63}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_SUBDOMAIN = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z"
)
_UID = re.compile(r"[-_.A-Za-z0-9]{0,128}\Z")
# CNI's specification 1.0.0, Parameters.
_CONTAINER = re.compile(r"[A-Za-z0-9][-_.A-Za-z0-9]{0,255}\Z")
_INTERFACE = re.compile(r"(?!\.{1,2}\Z)[^/:\s]{1,15}\Z")


class BadRequest(ValueError):
    """A line that is no request, or a claim that cannot be; the message names field and reason."""


class UnsupportedVersion(BadRequest):
    """The line is of another version of the protocol."""


class Refused(Exception):
    """The rules of this pod will not be in the kernel, however long it waits; with the reason."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A pod's sandbox and its addresses; `BadRequest` for one that cannot be.

    `ips` are as `ipaddress` prints them. None at all, in a release, means whatever the sandbox has.
    `uid` is the kubelet's, and empty where the runtime does not pass it on: for a static pod it is
    not the `metadata.uid` of the mirror pod, but its annotation `kubernetes.io/config.mirror`.
    `container_id` and `interface` are one attachment of CNI: a pod whose sandbox is made anew keeps
    its uid, and the old sandbox may be torn down after the new one was set up.
    """

    namespace: str
    name: str
    uid: str
    ips: tuple[str, ...]
    container_id: str
    interface: str

    def __post_init__(self) -> None:
        _match(_LABEL, "namespace", self.namespace)
        _match(_SUBDOMAIN, "name", self.name)
        _match(_UID, "uid", self.uid)
        _match(_CONTAINER, "containerID", self.container_id)
        _match(_INTERFACE, "ifname", self.interface)
        if len(self.ips) > MOST:
            raise BadRequest(f"ips: {len(self.ips)} addresses; one pod has at most {MOST}")
        if len(set(self.ips)) < len(self.ips):
            raise BadRequest(f"ips: an address is there twice: {', '.join(self.ips)}")
        for text in self.ips:
            _check_address(text)


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """Wait until the rules are there, `timeout` seconds at most; None: as long as one listens."""

    claim: Claim
    timeout: float | None


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """The addresses are free again."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """Is anyone there?"""


Request = ClaimRequest | ReleaseRequest | StatusRequest

_CLAIM = frozenset({"namespace", "name", "uid", "ips", "containerID", "ifname"})
_FIELDS = {"claim": _CLAIM | {"timeout"}, "release": _CLAIM, "status": frozenset[str]()}


def parse(line: bytes) -> Request:
    """The request that a line makes. `BadRequest`."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the line is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadRequest("the line is no JSON object")
    version = found.pop("version", None)
    if version != VERSION or isinstance(version, bool):
        raise UnsupportedVersion(f"version: {version!r}; this is version {VERSION}")
    operation = found.pop("operation", None)
    if not isinstance(operation, str) or operation not in _FIELDS:
        raise BadRequest(f"operation: {operation!r} is none of {', '.join(_FIELDS)}")
    if unknown := sorted(found.keys() - _FIELDS[operation]):
        raise BadRequest(f"{operation} has no field {unknown[0]!r}")
    match operation:
        case "claim":
            timeout = _timeout(found.pop("timeout", None))
            claim = _claim(found)
            if not claim.ips:
                raise BadRequest("ips: a claim needs an address")
            return ClaimRequest(claim, timeout)
        case "release":
            return ReleaseRequest(_claim(found))
        case _:
            return StatusRequest()


def answer(*, milliseconds: float = 0.0) -> bytes:
    """The line that says yes, and how long that took."""
    return _line({"ok": True, "milliseconds": round(milliseconds, 1)})


def denial(reason: str, message: str) -> bytes:
    """The line that says no: a reason for programs, a message for people."""
    return _line({"ok": False, "reason": reason, "message": message})


def _line(fields: Mapping[str, Any]) -> bytes:
    return orjson.dumps({"version": VERSION, **fields}, option=orjson.OPT_APPEND_NEWLINE)


def _claim(found: Mapping[str, Any]) -> Claim:
    ips = found.get("ips")
    if not isinstance(ips, list) or not all(isinstance(ip, str) for ip in ips):
        raise BadRequest("ips: is no list of texts")
    names = ("namespace", "name", "uid", "containerID", "ifname")
    for name in names:
        if not isinstance(found.get(name), str):
            raise BadRequest(f"{name}: is no text")
    namespace, pod, uid, container_id, interface = (found[name] for name in names)
    return Claim(namespace, pod, uid, tuple(ips), container_id, interface)


def _timeout(value: Any) -> float | None:
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 < value <= LONGEST:
        raise BadRequest(f"timeout: {value!r} is no number of seconds up to {LONGEST:.0f}")
    return float(value)


def _match(pattern: re.Pattern[str], field: str, value: str) -> None:
    if not pattern.match(value):
        raise BadRequest(f"{field}: {value[:300]!r} cannot be one")


def _check_address(text: str) -> None:
    try:
        address = ip_address(text)
    except ValueError:
        raise BadRequest(f"ips: {text[:100]!r} is no address") from None
    if str(address) != text:
        raise BadRequest(f"ips: {text!r} is to be written {address}")
    local = address.is_loopback or address.is_link_local or "%" in text
    if local or address.is_multicast or address.is_unspecified:
        raise BadRequest(f"ips: {text} is no address of a pod")
