"""What the flags mean together: which server tells of what, and whose pods are protected."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from enforcer.access import (
    SERVICE_ACCOUNT,
    Access,
    BadAccess,
    from_kubeconfig,
    from_url,
    in_cluster,
)

DEFAULT_SERVER = "http://127.0.0.1:8080"
# RFC 1123, as the API demands it of the name of a node.
NODE = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

Open = Callable[[], Access]


@dataclass(frozen=True, slots=True)
class Settings:
    """`policies` is None where they come from where namespaces and pods do.

    `node` is empty where every pod is protected.
    """

    cluster: Open
    policies: Open | None
    node: str


def settings(
    *,
    server: str,
    kubeconfig: str,
    policy_server: str,
    policy_kubeconfig: str,
    node_name: str,
    environ: Mapping[str, str],
    host_name: str,
    folder: Path = SERVICE_ACCOUNT,
) -> Settings:
    """`BadAccess` for flags that contradict each other. No file is read yet."""
    cluster = _chosen(server, kubeconfig, "")
    policies = _chosen(policy_server, policy_kubeconfig, "policy-")
    standalone = bool(server)
    if cluster is None:
        standalone = "KUBERNETES_SERVICE_HOST" not in environ
        cluster = (
            partial(from_url, DEFAULT_SERVER)
            if standalone
            else partial(in_cluster, environ, folder=folder)
        )
    if standalone:
        return Settings(cluster, policies, node_name)
    # The kubelet registers under the host name in small letters.
    given = {
        "--node-name": node_name,
        "NODE_NAME": environ.get("NODE_NAME", ""),
        "the name of this host": host_name.lower(),
    }
    what = next((what for what, name in given.items() if name), "--node-name")
    if not NODE.fullmatch(given[what]):
        raise BadAccess(
            f"{what}: {given[what]!r} is no name of a node; give --node-name one that kubectl get"
            " nodes shows"
        )
    return Settings(cluster, policies, given[what])


def _chosen(server: str, kubeconfig: str, prefix: str) -> Open | None:
    flags = f"--{prefix}server", f"--{prefix}kubeconfig"
    if server and kubeconfig:
        raise BadAccess(
            f"{flags[0]} {server} and {flags[1]} {kubeconfig}: both say where the server is; give"
            " one of them"
        )
    if server:
        return partial(from_url, server, flag=flags[0])
    return partial(from_kubeconfig, Path(kubeconfig), flag=flags[1]) if kubeconfig else None
