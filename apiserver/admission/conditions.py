"""Whether the conditions in CEL of a webhook or a policy hold for a request.

k8s.io/apiserver `pkg/admission/plugin/webhook/matchconditions`: one that is false decides, whatever
else failed; without one, an error is the failure of all.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from apiserver.admission.cel.evaluator import Result

OBJECTS = ("object", "oldObject", "uid")  # of an AdmissionRequest, and not of `request`
OPTIONAL = ("subResource", "requestSubResource", "name", "namespace")  # left out where empty
HIDDEN = ("managedFields", "ownerReferences", "selfLink")

Json = dict[str, Any]


class Erred(Exception):
    """They could not be judged, and none was false."""


def judged(conditions: Sequence[str], results: Sequence[Result]) -> bool:
    """`Erred`."""
    if any(result.value is False for result in results):
        return False
    errors = [
        error(condition, result)
        for condition, result in zip(conditions, results, strict=True)
        if result.value is not True
    ]
    if errors:
        raise Erred(errors[0] if len(errors) == 1 else f"[{', '.join(dict.fromkeys(errors))}]")
    return True


def error(expression: str, result: Result) -> str:
    """Of a result that is neither true nor false."""
    return result.error or f"expression '{expression}' resulted in error: must evaluate to bool"


def variables(request: Json, namespace: Mapping[str, Any] | None = None) -> Json:
    """What an expression sees of an AdmissionRequest (`pkg/admission/plugin/cel/activation.go`)."""
    checked = {
        "group": request["resource"]["group"],
        "resource": request["resource"]["resource"],
        "subresource": request.get("subResource", ""),
        "namespace": request["namespace"],
        "name": request["name"],
    }
    return {
        "object": request["object"],
        "oldObject": request["oldObject"],
        "namespaceObject": namespace and _shown(namespace),
        "request": {
            key: value
            for key, value in request.items()
            if key not in OBJECTS and (value or key not in OPTIONAL)
        },
        "authorizer": {"requestResource": checked},
    }


def _shown(namespace: Mapping[str, Any]) -> Json:
    """What upstream shows of a namespace."""
    meta = namespace.get("metadata") or {}
    return {
        "metadata": {key: value for key, value in meta.items() if key not in HIDDEN},
        "spec": namespace.get("spec") or {},
        "status": namespace.get("status") or {},
    }
