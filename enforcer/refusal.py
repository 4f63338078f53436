"""Why an API server said no, and what helps. Pure.

The codes are those of https://kubernetes.io/docs/reference/using-api/api-concepts/ and of the
aggregation layer.
"""


def reason(path: str, verb: str, code: int, message: str, *, origin: str) -> str:
    """One line: the code, the server's own words, and the way out where there is one.

    `verb` is list or watch; `origin` names where our credentials are from.
    """
    words = " ".join(message.split())[:300] or "no reason was given"
    told = f"{code}: {words}"
    group, resource = _resource(path)
    if code == 401:
        return (
            f"{told}; the server does not accept the credentials of {origin}, they are read again"
            " at the next attempt"
        )
    if code == 403:
        return (
            f"{told}; the enforcer lacks a ClusterRoleBinding to a ClusterRole with verbs list and"
            f" watch ({verb} was refused) on resource {resource} of apiGroup {group!r}"
        )
    if code in (404, 503) and group:
        return (
            f"{told}; the APIService of {group} is missing or not available: look at kubectl get"
            " apiservices, or name the policies' own server with --policy-kubeconfig or"
            " --policy-server"
        )
    return told


def _resource(path: str) -> tuple[str, str]:
    """The group and the resource of a collection over all namespaces."""
    parts = path.strip("/").split("/")
    return (parts[1] if parts[0] == "apis" else ""), parts[-1]
