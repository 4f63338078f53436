"""ThirdPartyResource of extensions/v1beta1, as Kubernetes 1.2 had it."""

from typing import Any

from apiserver.api.schemas.build import array, list_of, obj, text, top

GROUP = ("extensions", "v1beta1")
_V1 = "io.k8s.api.extensions.v1beta1."

DEFINITIONS: dict[str, dict[str, Any]] = {
    _V1 + "ThirdPartyResource": top(
        "Defines a resource, as it was done before CustomResourceDefinitions. This server accepts"
        " the definition of its own resource, network-policy.net.alpha.kubernetes.io.",
        *GROUP,
        "ThirdPartyResource",
        description=text("What the resource is for."),
        versions=array(
            "The versions that the resource is served at.",
            {"allOf": [{"$ref": _V1 + "APIVersion"}], "default": {}},
        ),
    ),
    _V1 + "ThirdPartyResourceList": list_of(
        _V1 + "ThirdPartyResource", *GROUP, "ThirdPartyResource"
    ),
    _V1 + "APIVersion": obj("A version.", name=text("Its name, such as v1alpha1.")),
}
