"""The columns of `kubectl get`, a tuple for each resource.

A cell never raises: it may meet an object that something else wrote into the store.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import policy
from apiserver.api.resource import Column

Object = Mapping[str, Any]
Cell = str | int | None
UNKNOWN = "<unknown>"


def human_age(seconds: float) -> str:
    """kubectl's `duration.HumanDuration`: 5m, 3h10m, 2d3h, 30d."""
    total = int(seconds)
    if total < -1:
        return "<invalid>"
    if total < 0:
        return "0s"
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if total < 120:
        return f"{total}s"
    if minutes < 10:
        return f"{minutes}m{total % 60}s" if total % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 365 * 2:
        return f"{days}d"
    if days < 365 * 8:
        years, rest = divmod(days, 365)
        return f"{years}y{rest}d" if rest else f"{years}y"
    return f"{days // 365}y"


def at(obj: Any, *path: str) -> Any:
    """The value at a path of keys, None where there is none."""
    for key in path:
        if not isinstance(obj, Mapping):
            return None
        obj = obj.get(key)
    return obj


def _text(*path: str) -> Callable[[Object, float], Cell]:
    def cell(obj: Object, now: float) -> Cell:
        value = at(obj, *path)
        return str(value) if isinstance(value, str | int) else ""

    return cell


def _since(*path: str) -> Callable[[Object, float], Cell]:
    def cell(obj: Object, now: float) -> Cell:
        try:
            then = datetime.fromisoformat(at(obj, *path)).timestamp()
        except (TypeError, ValueError):
            return UNKNOWN
        return human_age(now - then)

    return cell


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


NAME = Column(
    "Name",
    "Name of the object, unique within a namespace.",
    _text("metadata", "name"),
    format="name",
)
AGE = Column("Age", "Time since the object was created.", _since("metadata", "creationTimestamp"))


def _selector(selector: policy.Selector | None, empty: str) -> str:
    if selector is None or not selector.requirements:
        return empty
    texts = []
    for item in selector.requirements:
        values = ",".join(item.values)
        match item.operator:
            case policy.Operator.IN:
                many = len(item.values) > 1
                texts.append(f"{item.key} in ({values})" if many else f"{item.key}={values}")
            case policy.Operator.NOT_IN:
                texts.append(f"{item.key} notin ({values})")
            case policy.Operator.EXISTS:
                texts.append(item.key)
            case policy.Operator.DOES_NOT_EXIST:
                texts.append(f"!{item.key}")
    return ",".join(texts)


def _peer(peer: policy.Peer) -> str:
    if peer.namespaces is not None:
        return f"ns:{_selector(peer.namespaces, '<all>')}"
    return _selector(peer.pods, "<all pods>")


def _port(port: policy.Port) -> str:
    if port.name is not None:
        return f"{port.name}/{port.protocol}"
    if port.low is None:
        return str(port.protocol)
    number = str(port.low) if port.low == port.high else f"{port.low}:{port.high}"
    return f"{number}/{port.protocol}"


def _of_policy(read: Callable[[policy.Policy], str]) -> Callable[[Object, float], Cell]:
    def cell(obj: Object, now: float) -> Cell:
        try:
            return read(policy.parse(obj))
        except policy.InvalidPolicy:
            return "<invalid>"

    return cell


def _sources(item: policy.Policy) -> str:
    texts = [" or ".join(map(_peer, rule.peers)) or "<any>" for rule in item.rules]
    return "; ".join(texts) or "<none>"


def _ports(item: policy.Policy) -> str:
    texts = [",".join(map(_port, rule.ports)) or "<any>" for rule in item.rules]
    return "; ".join(texts) or "<none>"


def _generation(obj: Object, now: float) -> Cell:
    value = at(obj, "metadata", "generation")
    return value if isinstance(value, int) else None


NETWORKPOLICYS = (
    NAME,
    Column(
        "Pod-Selector",
        "The pods of the namespace that the policy lets traffic in to.",
        _of_policy(lambda item: _selector(item.pod_selector, "<all pods>")),
    ),
    Column(
        "Allow-From", "Who may come in, rule by rule; ns: selects namespaces.", _of_policy(_sources)
    ),
    Column("Ports", "On which ports they may come in, rule by rule.", _of_policy(_ports)),
    AGE,
    Column("Generation", "How often the spec has changed.", _generation, "integer", priority=1),
)


def _isolation(obj: Object, now: float) -> Cell:
    return str(policy.isolation(at(obj, "metadata", "annotations"))[0])


NAMESPACES = (
    NAME,
    Column("Status", "The phase of the namespace.", _text("status", "phase")),
    Column("Isolation", "Whether network isolation is on, off or in audit.", _isolation),
    AGE,
)


def _ready(obj: Object, now: float) -> Cell:
    statuses = _list(at(obj, "status", "containerStatuses"))
    ready = sum(1 for item in statuses if at(item, "ready") is True)
    return f"{ready}/{len(_list(at(obj, 'spec', 'containers')))}"


def _restarts(obj: Object, now: float) -> Cell:
    counts = [at(s, "restartCount") for s in _list(at(obj, "status", "containerStatuses"))]
    return sum(count for count in counts if isinstance(count, int))


def _pod_status(obj: Object, now: float) -> Cell:
    if at(obj, "metadata", "deletionTimestamp"):
        return "Terminating"
    return _text("status", "phase")(obj, now)


def _or_none(*path: str) -> Callable[[Object, float], Cell]:
    return lambda obj, now: _text(*path)(obj, now) or "<none>"


PODS = (
    NAME,
    Column("Ready", "Containers that are ready, of all.", _ready),
    Column("Status", "The phase of the pod.", _pod_status),
    Column("Restarts", "Restarts of its containers.", _restarts, "integer"),
    AGE,
    Column("IP", "The address of the pod.", _or_none("status", "podIP"), priority=1),
    Column("Node", "The node that it runs on.", _or_none("spec", "nodeName"), priority=1),
)


def _last_seen(obj: Object, now: float) -> Cell:
    for field in ("lastTimestamp", "eventTime", "firstTimestamp"):
        if at(obj, field):
            return _since(field)(obj, now)
    return AGE.cell(obj, now)


def _involved(obj: Object, now: float) -> Cell:
    kind, name = at(obj, "involvedObject", "kind"), at(obj, "involvedObject", "name")
    return f"{str(kind or '').lower()}/{name or ''}"


EVENTS = (
    Column("Last Seen", "When it was seen last.", _last_seen),
    Column("Type", "Normal or Warning.", _text("type")),
    Column("Reason", "A short, machine-readable reason.", _text("reason")),
    Column("Object", "What it is about.", _involved),
    Column("Message", "What happened.", _text("message")),
    Column("Name", "Name of the event.", _text("metadata", "name"), format="name", priority=1),
)


def _versions(obj: Object, now: float) -> Cell:
    return ",".join(str(at(item, "name")) for item in _list(at(obj, "versions")))


THIRDPARTYRESOURCES = (
    NAME,
    Column("Description", "What the resource is for.", _text("description")),
    Column("Version(s)", "The versions that it is served at.", _versions),
)
