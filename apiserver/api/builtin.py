"""The resources that this server can serve; `registry.strategies` says how each behaves."""

from apiserver.api import columns
from apiserver.api.resource import Resource

NETWORKPOLICYS = Resource(
    group="net.alpha.kubernetes.io",
    version="v1alpha1",
    plural="networkpolicys",
    singular="networkpolicy",
    kind="NetworkPolicy",
    namespaced=True,
    schema="io.k8s.kubernetes.alpha.net.v1alpha1.NetworkPolicy",
    columns=columns.NETWORKPOLICYS,
    short_names=("anp", "netpola"),
    status=True,
)
NAMESPACES = Resource(
    group="",
    version="v1",
    plural="namespaces",
    singular="namespace",
    kind="Namespace",
    namespaced=False,
    schema="io.k8s.api.core.v1.Namespace",
    columns=columns.NAMESPACES,
    short_names=("ns",),
    status=True,
)
PODS = Resource(
    group="",
    version="v1",
    plural="pods",
    singular="pod",
    kind="Pod",
    namespaced=True,
    schema="io.k8s.api.core.v1.Pod",
    columns=columns.PODS,
    short_names=("po",),
    indexed=(".spec.nodeName", ".status.phase", ".status.podIP"),
    categories=("all",),
    status=True,
)
EVENTS = Resource(
    group="",
    version="v1",
    plural="events",
    singular="event",
    kind="Event",
    namespaced=True,
    schema="io.k8s.api.core.v1.Event",
    columns=columns.EVENTS,
    short_names=("ev",),
    indexed=(".involvedObject.name", ".involvedObject.uid", ".reason"),
)
THIRDPARTYRESOURCES = Resource(
    group="extensions",
    version="v1beta1",
    plural="thirdpartyresources",
    singular="thirdpartyresource",
    kind="ThirdPartyResource",
    namespaced=False,
    schema="io.k8s.api.extensions.v1beta1.ThirdPartyResource",
    columns=columns.THIRDPARTYRESOURCES,
)

ALL = (NETWORKPOLICYS, NAMESPACES, PODS, EVENTS, THIRDPARTYRESOURCES)
