"""An informer of the official Python client, as a process that prints what it is told.

`python -m tests.informers.official URL`. It lists, watches, goes on from the last version after a
cut, and lists again after 410, as that client's documentation says one should.
"""

import sys
import time
from typing import Any

from kubernetes import client, watch
from urllib3.exceptions import HTTPError

from tests.informers.told import change, listed

WHAT = ("net.alpha.kubernetes.io", "v1alpha1", "networkpolicys")


def main(url: str) -> None:
    configuration = client.Configuration()
    configuration.host = url
    configuration.retries = False
    api: Any = client.CustomObjectsApi(client.ApiClient(configuration))
    version = ""
    while True:
        stream: Any = watch.Watch()  # type: ignore[no-untyped-call]
        try:
            if not version:
                body = api.list_cluster_custom_object(*WHAT)
                listed(body)
                version = body["metadata"]["resourceVersion"]
            for event in stream.stream(
                api.list_cluster_custom_object,
                *WHAT,
                resource_version=version,
                timeout_seconds=60,
            ):
                change(event["type"], event["object"])
                version = event["object"]["metadata"]["resourceVersion"]
        except client.ApiException as error:
            if error.status == 410:
                version = ""
        except (HTTPError, OSError):
            pass
        time.sleep(0.05)


if __name__ == "__main__":
    main(sys.argv[1])
