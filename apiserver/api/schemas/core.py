"""Namespace, Pod and Event of the core group, as far as policies and kubectl need them.

Pods keep every field that is sent: a real manifest says far more than is looked at here.
"""

from typing import Any

from apiserver.api.schemas.build import (
    OPEN,
    array,
    boolean,
    integer,
    keyed,
    list_of,
    obj,
    ref,
    text,
    time,
    top,
)

GROUP = ("", "v1")
_V1 = "io.k8s.api.core.v1."

DEFINITIONS: dict[str, dict[str, Any]] = {
    _V1 + "Namespace": top(
        "A part of the cluster with its own names. The annotation"
        " net.alpha.kubernetes.io/network-isolation (on, off, audit) says whether its pods are"
        " closed to all traffic that no policy allows.",
        *GROUP,
        "Namespace",
        spec=ref(_V1 + "NamespaceSpec", "What holds the namespace."),
        status=ref(_V1 + "NamespaceStatus", "The phase of the namespace."),
    ),
    _V1 + "NamespaceList": list_of(_V1 + "Namespace", *GROUP, "Namespace"),
    _V1 + "NamespaceSpec": obj(
        "What holds the namespace.",
        finalizers=array(
            "Who must act before a deleted namespace is gone.", {"type": "string", "default": ""}
        ),
    ),
    _V1 + "NamespaceStatus": {
        **obj("The phase of the namespace.", phase=text("Active or Terminating.")),
        **OPEN,
    },
    _V1 + "Pod": top(
        "A group of containers with one address.",
        *GROUP,
        "Pod",
        spec=ref(_V1 + "PodSpec", "What is to run, and where."),
        status=ref(_V1 + "PodStatus", "What runs, and at which address."),
    ),
    _V1 + "PodList": list_of(_V1 + "Pod", *GROUP, "Pod"),
    _V1 + "PodSpec": {
        **obj(
            "What is to run, and where.",
            containers=keyed("The containers.", _V1 + "Container", "name"),
            initContainers=keyed("What runs before them.", _V1 + "Container", "name"),
            volumes=keyed("The volumes that containers mount.", _V1 + "Volume", "name"),
            imagePullSecrets=keyed("Secrets to pull images with.", _V1 + "Named", "name"),
            nodeName=text("The node that the pod runs on."),
            hostNetwork=boolean("Whether it shares the node's network and address."),
            restartPolicy=text("Always, OnFailure or Never."),
            serviceAccountName=text("The account that it runs as."),
        ),
        **OPEN,
    },
    _V1 + "Container": {
        **obj(
            "One container.",
            name=text("Its name, unique in the pod."),
            image=text("The image that it runs."),
            ports=keyed("The ports that it offers.", _V1 + "ContainerPort", "containerPort"),
            env=keyed("Its environment.", _V1 + "Named", "name"),
            volumeMounts=keyed("What it mounts.", _V1 + "VolumeMount", "mountPath"),
            restartPolicy=text("Always: an init container that stays beside the others."),
        ),
        **OPEN,
    },
    _V1 + "ContainerPort": {
        **obj(
            "A port that a container offers.",
            containerPort=integer("The number of the port."),
            name=text("Its name, by which a policy can speak of it."),
            protocol=text("TCP, UDP or SCTP."),
        ),
        **OPEN,
    },
    _V1 + "Named": {**obj("Something with a name.", name=text("Its name.")), **OPEN},
    _V1 + "Volume": {**obj("A volume of a pod.", name=text("Its name.")), **OPEN},
    _V1 + "VolumeMount": {
        **obj("Where a volume is mounted.", name=text("The volume."), mountPath=text("The path.")),
        **OPEN,
    },
    _V1 + "PodStatus": {
        **obj(
            "What runs, and at which address.",
            phase=text("Pending, Running, Succeeded, Failed or Unknown."),
            podIP=text("The address of the pod."),
            podIPs=keyed("Its addresses, one a family.", _V1 + "PodIP", "ip"),
            hostIP=text("The address of its node."),
            startTime=time("When it started."),
        ),
        **OPEN,
    },
    _V1 + "PodIP": obj("An address.", ip=text("IPv4 or IPv6.")),
    _V1 + "ObjectReference": obj(
        "Another object.",
        apiVersion=text("Its API version."),
        kind=text("Its kind."),
        namespace=text("Its namespace."),
        name=text("Its name."),
        uid=text("Its UID."),
        resourceVersion=text("Its version."),
        fieldPath=text("The part of it that is meant."),
    ),
    _V1 + "Event": {
        **top(
            "Something that happened to an object.",
            *GROUP,
            "Event",
            involvedObject=ref(_V1 + "ObjectReference", "What it happened to."),
            reason=text("What happened, in one word."),
            message=text("What happened, for people."),
            type=text("Normal or Warning."),
            count=integer("How often."),
            firstTimestamp=time("When first."),
            lastTimestamp=time("When last."),
            eventTime=time("When first, to the microsecond."),
            source=obj(
                "Who reports it.",
                component=text("The program."),
                host=text("The node."),
            ),
            reportingComponent=text("The controller that reports it."),
            reportingInstance=text("Which of its instances."),
            action=text("What was done."),
        ),
        **OPEN,
    },
    _V1 + "EventList": list_of(_V1 + "Event", *GROUP, "Event"),
}
