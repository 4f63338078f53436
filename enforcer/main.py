"""netpol-enforcer: run, render, verify, cleanup."""

import asyncio
import contextlib
import difflib
import logging
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from ipaddress import ip_network
from typing import Annotated, Any

import httpx
import structlog
import typer

from enforcer import fetch, sync
from enforcer.access import BadAccess
from enforcer.diff import diff
from enforcer.model import NAMESPACES, PODS, POLICIES
from enforcer.nft import dump
from enforcer.nft.kernel import Kernel, KernelError
from enforcer.ruleset import FAMILY, TABLE, Ruleset
from enforcer.settings import DEFAULT_SERVER, Settings, settings

app = typer.Typer(
    help="Program this host's packet filter with the network policies of an API server.",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Server = Annotated[
    str,
    typer.Option(
        envvar="NETPOL_SERVER",
        help="URL of an API server that wants no credentials; with neither this nor --kubeconfig,"
        f" the service account of the pod, outside a cluster {DEFAULT_SERVER}.",
    ),
]
Kubeconfig = Annotated[
    str, typer.Option(envvar="NETPOL_KUBECONFIG", help="How to reach the cluster; instead.")
]
PolicyServer = Annotated[
    str,
    typer.Option(
        envvar="NETPOL_POLICY_SERVER",
        help="URL of another server for the policies, one that wants no credentials.",
    ),
]
PolicyKubeconfig = Annotated[
    str,
    typer.Option(
        envvar="NETPOL_POLICY_KUBECONFIG",
        help="How to reach another server for the policies; default: the same as for the rest.",
    ),
]
Node = Annotated[
    str,
    typer.Option(
        "--node-name",
        envvar="NETPOL_NODE_NAME",
        help="Pods of this node are protected. Left out: in a cluster those of $NODE_NAME or else"
        " of the host's name, with --server all pods.",
    ),
]
Cidrs = Annotated[
    list[str] | None,
    typer.Option(
        "--pod-cidr",
        envvar="NETPOL_POD_CIDR",
        help="Addresses of this node's pods: dropped until they are programmed. Repeatable.",
    ),
]
Netns = Annotated[
    str,
    typer.Option(envvar="NETPOL_NETNS", help="Program this network namespace (a name or a path)."),
]


@app.callback()
def default() -> None:
    """Without a command: run."""
    _configure_logs()


@app.command()
def run(
    server: Server = "",
    kubeconfig: Kubeconfig = "",
    policy_server: PolicyServer = "",
    policy_kubeconfig: PolicyKubeconfig = "",
    node_name: Node = "",
    pod_cidr: Cidrs = None,
    netns: Netns = "",
) -> None:
    """Follow the API server and keep the packet filter equal to its policies."""
    _check_cidrs(pod_cidr)
    chosen = _settings(server, kubeconfig, policy_server, policy_kubeconfig, node_name)
    _finish(_run(chosen, pod_cidr or [], netns))


@app.command()
def render(
    server: Server = "",
    kubeconfig: Kubeconfig = "",
    policy_server: PolicyServer = "",
    policy_kubeconfig: PolicyKubeconfig = "",
    node_name: Node = "",
    pod_cidr: Cidrs = None,
) -> None:
    """Print what the server's present state would load, and exit."""
    _check_cidrs(pod_cidr)
    chosen = _settings(server, kubeconfig, policy_server, policy_kubeconfig, node_name)
    want = _finish(_desired(chosen, pod_cidr or []))
    sys.stdout.write(diff(None, want).text())


@app.command()
def verify(
    server: Server = "",
    kubeconfig: Kubeconfig = "",
    policy_server: PolicyServer = "",
    policy_kubeconfig: PolicyKubeconfig = "",
    node_name: Node = "",
    pod_cidr: Cidrs = None,
    netns: Netns = "",
) -> None:
    """Compare the kernel with what should be loaded; exit status 1 if they differ."""
    _check_cidrs(pod_cidr)
    chosen = _settings(server, kubeconfig, policy_server, policy_kubeconfig, node_name)
    differences = _finish(_verify(chosen, pod_cidr or [], netns))
    sys.stdout.writelines(f"{line}\n" for line in differences)
    if differences:
        raise typer.Exit(1)
    sys.stdout.write("the kernel holds what it should\n")


@app.command()
def cleanup(netns: Netns = "") -> None:
    """Remove the enforcer's table: all traffic passes."""
    _finish(_cleanup(netns))


async def _run(chosen: Settings, cidrs: list[str], netns: str) -> None:
    kernel = Kernel(netns=netns)
    async with _sources(chosen) as sources:
        cluster, policies = sources[PODS].access, sources[POLICIES].access
        structlog.get_logger().info(
            "starting",
            cluster=f"{cluster.server} ({cluster.origin})",
            policies=f"{policies.server} ({policies.origin})",
            node=chosen.node or "(every pod)",
        )
        enforcer = sync.Enforcer(
            sources=sources,
            kernel=kernel,
            node=chosen.node,
            pod_cidrs=cidrs,
            rand=random.SystemRandom(),
        )
        task = asyncio.create_task(enforcer.run(), name="enforcer")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task
    kernel.close()
    structlog.get_logger().info("stopped; the table stays in place")


@contextlib.asynccontextmanager
async def _sources(chosen: Settings) -> AsyncIterator[dict[str, fetch.Connection]]:
    """The server of each resource. `BadAccess`."""
    async with contextlib.AsyncExitStack() as stack:
        cluster = policies = fetch.Connection(chosen.cluster)
        stack.push_async_callback(cluster.close)
        if chosen.policies is not None:
            policies = fetch.Connection(chosen.policies)
            stack.push_async_callback(policies.close)
        yield {NAMESPACES: cluster, PODS: cluster, POLICIES: policies}


async def _desired(chosen: Settings, cidrs: list[str]) -> Ruleset:
    async with _sources(chosen) as sources:
        return await sync.desired(sources, node=chosen.node, pod_cidrs=cidrs)


async def _verify(chosen: Settings, cidrs: list[str], netns: str) -> list[str]:
    want = await _desired(chosen, cidrs)
    kernel, trial = Kernel(netns=netns), Kernel(private=True)
    try:
        have = await kernel.table(FAMILY, TABLE)
        if have is None:
            return [f"there is no table {FAMILY} {TABLE}"]
        await trial.run(diff(None, want).text())
        wanted = await trial.table(FAMILY, TABLE) or []
        lines = difflib.unified_diff(
            dump.comparable(have), dump.comparable(wanted), "kernel", "wanted", lineterm="", n=0
        )
        return list(lines)
    finally:
        kernel.close()
        trial.close()


async def _cleanup(netns: str) -> None:
    kernel = Kernel(netns=netns)
    try:
        if await kernel.table(FAMILY, TABLE) is not None:
            await kernel.run(f"delete table {FAMILY} {TABLE}")
    finally:
        kernel.close()


def _finish(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a command; what it cannot go on with is one line and exit status 2."""
    try:
        return asyncio.run(work)
    except (BadAccess, KernelError, httpx.HTTPError, OSError) as error:
        sys.stderr.write(f"netpol-enforcer: {error}\n")
        raise typer.Exit(2) from None


def _settings(
    server: str, kubeconfig: str, policy_server: str, policy_kubeconfig: str, node_name: str
) -> Settings:
    try:
        return settings(
            server=server,
            kubeconfig=kubeconfig,
            policy_server=policy_server,
            policy_kubeconfig=policy_kubeconfig,
            node_name=node_name,
            environ=os.environ,
            host_name=socket.gethostname(),
        )
    except BadAccess as error:
        sys.stderr.write(f"netpol-enforcer: {error}\n")
        raise typer.Exit(2) from None


def _check_cidrs(cidrs: list[str] | None) -> None:
    for cidr in cidrs or ():
        try:
            ip_network(cidr, strict=False)
        except ValueError as error:
            raise typer.BadParameter(f"--pod-cidr: {error}") from None


def _configure_logs() -> None:
    """Text for people on a terminal, JSON lines otherwise."""
    people = sys.stderr.isatty()
    render_as: Any = (
        structlog.dev.ConsoleRenderer() if people else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            render_as,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)


def main() -> None:
    """The console script; flags without a command are those of `run`."""
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] != "--help"):
        arguments.insert(0, "run")
    app(arguments)


if __name__ == "__main__":
    main()
