"""An informer of lightkube, as a process that prints what it is told.

`python -m tests.informers.light URL`. The client resumes a watch by itself; after 410 one lists
again.
"""

import sys
import time

import httpx2
from lightkube import ApiError, Client, KubeConfig
from lightkube.generic_resource import create_namespaced_resource
from lightkube.types import OnErrorAction, OnErrorResult

from tests.informers.told import change, listed

Policy = create_namespaced_resource(
    "net.alpha.kubernetes.io", "v1alpha1", "NetworkPolicy", "networkpolicys"
)


def _again(error: Exception, count: int) -> OnErrorResult:
    if isinstance(error, ApiError) and error.status.code == 410:
        return OnErrorResult(OnErrorAction.RAISE)
    return OnErrorResult(OnErrorAction.RETRY, sleep=0.05)


def main(url: str) -> None:
    clusters = [{"name": "it", "cluster": {"server": url}}]
    users: list[dict[str, object]] = [{"name": "it", "user": {}}]
    contexts = [{"name": "it", "context": {"cluster": "it", "user": "it"}}]
    config = {"clusters": clusters, "users": users, "contexts": contexts, "current-context": "it"}
    api = Client(KubeConfig.from_dict(config), trust_env=False)
    while True:
        try:
            found = api.list(Policy, namespace="*")
            items = list(found)
            version = found.resourceVersion
            listed({"items": items, "metadata": {"resourceVersion": version}})
            for kind, obj in api.watch(
                Policy, namespace="*", resource_version=version, on_error=_again
            ):
                change(kind, obj)
        except (ApiError, httpx2.HTTPError):
            time.sleep(0.05)


if __name__ == "__main__":
    main(sys.argv[1])
