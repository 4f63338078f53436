"""What a network policy means, as pure functions over frozen values; see README.md."""

from policy.errors import FieldError, InvalidPolicy
from policy.match import peer_matches, port_matches, resolve, selects
from policy.normalise import normalise
from policy.parse import ISOLATION_ANNOTATION, isolation, namespace, parse, pod
from policy.types import (
    Cluster,
    ContainerPort,
    Flow,
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
from policy.validate import validate
from policy.verdict import Grant, Miss, Missed, Reason, Verdict, verdict

__all__ = [
    "ISOLATION_ANNOTATION",
    "Cluster",
    "ContainerPort",
    "FieldError",
    "Flow",
    "Grant",
    "InvalidPolicy",
    "Isolation",
    "Miss",
    "Missed",
    "Namespace",
    "Operator",
    "Peer",
    "Pod",
    "Policy",
    "Port",
    "Protocol",
    "Reason",
    "Requirement",
    "Rule",
    "Selector",
    "Verdict",
    "isolation",
    "namespace",
    "normalise",
    "parse",
    "peer_matches",
    "pod",
    "port_matches",
    "resolve",
    "selects",
    "validate",
    "verdict",
]
