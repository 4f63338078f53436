"""Objects as the API serves them, turned into the values that policies are judged with.

`parse` is strict: a policy that is wrong in any field is none. `namespace` and `pod` are lenient:
they read objects that Kubernetes has validated, and one strange pod must stop nobody.
"""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from policy.errors import InvalidPolicy, required
from policy.normalise import normalise
from policy.types import (
    ContainerPort,
    Isolation,
    Namespace,
    Operator,
    Peer,
    Pod,
    Policy,
    Port,
    Protocol,
    Requirement,
    Rule,
    Selector,
)
from policy.validate import is_label_selector, is_number, validate

ISOLATION_ANNOTATION = "net.alpha.kubernetes.io/network-isolation"
ON = frozenset({"on", "yes", "true", "1", "enabled", "y", "t"})
OFF = frozenset({"off", "no", "false", "0", "disabled", "n", "f"})
FINISHED = frozenset({"Succeeded", "Failed"})


def parse(obj: Mapping[str, Any]) -> Policy:
    """The policy that an object states, in any accepted spelling; else `InvalidPolicy`."""
    obj, _ = normalise(obj)
    metadata = _mapping(obj.get("metadata"))
    names = [_text(metadata.get("namespace")), _text(metadata.get("name"))]
    errors = [
        required(f"metadata.{field}", "must name the policy")
        for field, name in zip(("namespace", "name"), names, strict=True)
        if not name
    ]
    errors += validate(obj)
    if errors:
        raise InvalidPolicy(errors)
    spec = obj["spec"]
    rules = spec.get("allowIncoming")
    if rules is None:
        listed: list[Any] = []
    else:
        listed = rules if isinstance(rules, list) else [rules]
    return Policy(
        namespace=names[0],
        name=names[1],
        pod_selector=_selector(spec.get("podSelector")),
        rules=tuple(_rule(rule or {}) for rule in listed),
    )


def isolation(annotations: Mapping[str, Any] | None) -> tuple[Isolation, str | None]:
    """What a namespace's annotations say of its isolation, and a warning for a bad value."""
    value = _mapping(annotations).get(ISOLATION_ANNOTATION)
    if value is None:
        return Isolation.OFF, None
    text = str(value).strip().lower()
    if text in ON:
        return Isolation.ON, None
    if text == Isolation.AUDIT:
        return Isolation.AUDIT, None
    if text in OFF:
        return Isolation.OFF, None
    return (
        Isolation.OFF,
        f'{ISOLATION_ANNOTATION}: "{value}" is unknown and means off; use on, off or audit',
    )


def namespace(obj: Mapping[str, Any]) -> Namespace:
    """A namespace of the core API."""
    metadata = _mapping(obj.get("metadata"))
    annotations = _mapping(metadata.get("annotations"))
    return Namespace(
        name=_text(metadata.get("name")),
        labels=_labels(metadata),
        isolation=isolation(annotations)[0],
    )


def pod(obj: Mapping[str, Any]) -> Pod:
    """A pod of the core API."""
    metadata, spec = _mapping(obj.get("metadata")), _mapping(obj.get("spec"))
    status = _mapping(obj.get("status"))
    listed = [_mapping(entry).get("ip") for entry in _list(status.get("podIPs"))]
    addresses = [_address(value) for value in (status.get("podIP"), *listed)]
    return Pod(
        namespace=_text(metadata.get("namespace")),
        name=_text(metadata.get("name")),
        labels=_labels(metadata),
        ips=tuple(dict.fromkeys(address for address in addresses if address)),
        node=_text(spec.get("nodeName")),
        host_network=spec.get("hostNetwork") is True,
        finished=status.get("phase") in FINISHED,
        ports=tuple(_named_ports(spec)),
        started=_text(status.get("startTime")) or _text(metadata.get("creationTimestamp")),
    )


def _selector(value: Any) -> Selector:
    labels = _mapping(value)
    requirements = []
    if is_label_selector(labels):
        for expression in labels.get("matchExpressions") or ():
            values = tuple(sorted(set(expression.get("values") or ())))
            operator = Operator(expression["operator"])
            requirements.append(Requirement(expression["key"], operator, values))
        labels = labels.get("matchLabels") or {}
    requirements += [Requirement(k, Operator.IN, (v,)) for k, v in labels.items()]
    return Selector(tuple(sorted(set(requirements))))


def _rule(rule: Mapping[str, Any]) -> Rule:
    return Rule(
        peers=tuple(_peer(peer) for peer in rule.get("from") or ()),
        ports=tuple(_port(port) for port in rule.get("toPorts") or ()),
    )


def _peer(peer: Mapping[str, Any]) -> Peer:
    if "pods" in peer:
        return Peer(pods=_selector(peer["pods"]))
    return Peer(namespaces=_selector(peer["namespaces"]))


def _port(port: Mapping[str, Any]) -> Port:
    protocol = Protocol((port.get("protocol") or "TCP").upper())
    value = port.get("port")
    if value is None:
        return Port(protocol)
    low, colon, high = str(value).partition(":")
    if not is_number(low):
        return Port(protocol, name=str(value))
    return Port(protocol, low=int(low), high=int(high if colon else low))


def _named_ports(spec: Mapping[str, Any]) -> list[ContainerPort]:
    """Ports of the containers, and of init containers that stay beside them (sidecars)."""
    sidecars = [
        item
        for item in map(_mapping, _list(spec.get("initContainers")))
        if item.get("restartPolicy") == "Always"
    ]
    found = []
    for container in (*map(_mapping, _list(spec.get("containers"))), *sidecars):
        for port in map(_mapping, _list(container.get("ports"))):
            name, number = port.get("name"), port.get("containerPort")
            protocol = port.get("protocol") or "TCP"
            if (
                isinstance(name, str)
                and name
                and isinstance(number, int)
                and isinstance(protocol, str)
                and protocol.upper() in Protocol.__members__
                and 1 <= number <= 65535
            ):
                found.append(ContainerPort(name, Protocol(protocol.upper()), number))
    return found


def _address(value: Any) -> str | None:
    try:
        address = ip_address(value) if isinstance(value, str) else None
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None
        address = address.ipv4_mapped or address
    if address is None or not _of_a_host(address):
        return None
    return str(address)


def _of_a_host(address: IPv4Address | IPv6Address) -> bool:
    """Whether one pod can have it: an entry for a group would open what is for every host."""
    return not (
        address.is_multicast
        or address.is_unspecified
        or address.is_loopback
        or (address.version == 4 and int(address) == 0xFFFFFFFF)
    )


def _labels(metadata: Mapping[str, Any]) -> dict[str, str]:
    labels = _mapping(metadata.get("labels"))
    return {key: value for key, value in labels.items() if isinstance(value, str)}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
