"""NetworkPolicy of net.alpha.kubernetes.io/v1alpha1, with words for those who write one."""

from typing import Any

from apiserver.api.schemas.build import (
    OPEN,
    array,
    integer,
    list_of,
    obj,
    ref,
    text,
    time,
    top,
)

GROUP = ("net.alpha.kubernetes.io", "v1alpha1")
_V1 = "io.k8s.kubernetes.alpha.net.v1alpha1."

_SELECTOR = (
    " Either plain labels that must all be equal (segment: backend), or a selector with matchLabels"
    " and matchExpressions."
)


def _selector(description: str) -> dict[str, Any]:
    schema = obj(
        description + _SELECTOR,
        matchLabels={
            "description": "Labels that must all be present with these values.",
            "type": "object",
            "additionalProperties": {"type": "string"},
        },
        matchExpressions=array(
            "Conditions on labels that must all hold.",
            {"allOf": [{"$ref": _V1 + "LabelSelectorRequirement"}], "default": {}},
        ),
    )
    return {**schema, **OPEN, "x-kubernetes-map-type": "atomic"}


DEFINITIONS: dict[str, dict[str, Any]] = {
    _V1 + "NetworkPolicy": top(
        "Lets traffic in to some pods of a namespace. It has an effect only while the namespace is"
        " isolated by its annotation net.alpha.kubernetes.io/network-isolation; then everything"
        " is dropped that no policy allows. Policies add up: there is no order and no deny rule.",
        *GROUP,
        "NetworkPolicy",
        spec=ref(_V1 + "NetworkPolicySpec", "Which pods are opened, to whom, and on which ports."),
        status=ref(_V1 + "NetworkPolicyStatus", "What the enforcers report."),
    ),
    _V1 + "NetworkPolicyList": list_of(_V1 + "NetworkPolicy", *GROUP, "NetworkPolicy"),
    _V1 + "NetworkPolicySpec": obj(
        "Which pods are opened, to whom, and on which ports.",
        podSelector=_selector(
            "The pods of the policy's own namespace that traffic is let in to. Left out or empty,"
            " it selects all of them."
        ),
        allowIncoming={
            "description": "The traffic that is let in: one rule, or a list of rules of which any"
            " may match. Left out, the policy allows nothing; an empty rule {} allows everything.",
            "allOf": [{"$ref": _V1 + "Rule"}],
            # Owned as one: who may come in must not hang on what another manager stops to say.
            "x-kubernetes-list-type": "atomic",
            "x-kubernetes-map-type": "atomic",
            **OPEN,
        },
    ),
    _V1 + "Rule": obj(
        "Traffic is let in if it comes from any of the sources and to any of the ports.",
        reserved={
            "from": array(
                "The sources, of which any may match. Left out or empty: any source, outside the"
                " cluster included.",
                {"allOf": [{"$ref": _V1 + "Peer"}], "default": {}},
            )
        },
        toPorts=array(
            "The pod's own ports, of which any may match. Left out or empty: every protocol and"
            " port, ICMP included.",
            {"allOf": [{"$ref": _V1 + "Port"}], "default": {}},
        ),
    ),
    _V1 + "Peer": obj(
        "A source: exactly one of pods and namespaces. Never a host or an outside address.",
        pods=_selector("Pods of the policy's own namespace; {} selects all of them."),
        namespaces=_selector(
            "Every pod of the namespaces whose labels match; {} selects every pod of the cluster."
        ),
    ),
    _V1 + "Port": obj(
        "A port of the pod, after the translation of a Service.",
        port={
            "description": 'A number from 1 to 65535, a range "8000:8080", or the name of a'
            " container's port, which is looked up in each selected pod. Left out: every port of"
            " the protocol.",
            "x-kubernetes-int-or-string": True,
            "oneOf": [{"type": "integer"}, {"type": "string"}],
        },
        protocol=text("TCP, UDP, SCTP or ICMP, in any case. Left out: TCP."),
    ),
    _V1 + "LabelSelectorRequirement": obj(
        "A condition on one label.",
        required=("key", "operator"),
        key=text("The label."),
        operator=text("In, NotIn, Exists or DoesNotExist."),
        values=array(
            "The values for In and NotIn; empty for the others.", {"type": "string", "default": ""}
        ),
    ),
    _V1 + "NetworkPolicyStatus": {
        **obj(
            "What the enforcers report.",
            conditions={
                **array(
                    "The state of the policy, one entry a type.",
                    {"allOf": [{"$ref": _V1 + "Condition"}], "default": {}},
                ),
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "x-kubernetes-patch-merge-key": "type",
                "x-kubernetes-patch-strategy": "merge",
            },
        ),
        **OPEN,
    },
    _V1 + "Condition": obj(
        "One aspect of a state.",
        required=("type", "status"),
        type=text("The aspect."),
        status=text("True, False or Unknown."),
        observedGeneration=integer("The generation that it speaks of.", 64),
        lastTransitionTime=time("When the status changed last."),
        reason=text("Why, for machines."),
        message=text("Why, for people."),
    ),
}
