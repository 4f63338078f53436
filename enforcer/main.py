"""netpol-enforcer: run, status, flows, render, verify, cleanup."""

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import Coroutine, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any

import httpx
import structlog
import typer

from enforcer import daemon, saved, sync
from enforcer.access import BadAccess
from enforcer.compile import Compiler
from enforcer.daemon import OnExit, Options, Probing
from enforcer.diff import differences
from enforcer.host import canary, tags
from enforcer.nft.kernel import Kernel, KernelError
from enforcer.ruleset import FAMILY, TABLE, Ruleset
from enforcer.settings import DEFAULT_SERVER, Settings, settings
from enforcer.skeleton import LOG_GROUP
from enforcer.table import Table, Taken
from enforcer.telemetry import show
from enforcer.telemetry.endpoint import DEFAULT, Endpoint
from enforcer.text import rendered

STATE = "/var/lib/netpol"

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


Bind = Annotated[
    str,
    typer.Option(
        "--metrics-bind-address",
        envvar=show.VARIABLE,
        help="Where probes, metrics, status and flows are served; 0 is off.",
    ),
]
WaitSocket = Annotated[
    str,
    typer.Option(
        envvar="NETPOL_WAIT_SOCKET",
        help="Path of the socket at which netpol-cni waits for a pod's rules; left out: none.",
    ),
]
StateDir = Annotated[
    str,
    typer.Option(
        envvar="NETPOL_STATE_DIR",
        help="Where the last ruleset is saved for the next boot; empty: nowhere.",
    ),
]
FlowLogPath = Annotated[
    str,
    typer.Option(
        "--flow-log",
        envvar="NETPOL_FLOW_LOG",
        help="File for records of denied flows, as JSON lines; - is standard output.",
    ),
]
LogGroup = Annotated[
    int,
    typer.Option(
        envvar="NETPOL_LOG_GROUP",
        min=0,
        max=65535,
        help="NFLOG group by which the kernel tells of denied flows; 0: it does not.",
    ),
]
CanaryMode = Annotated[
    Probing,
    typer.Option(
        "--canary",
        envvar="NETPOL_CANARY",
        help="Probe the packet filter with a pair of namespaces of its own.",
    ),
]
Exit = Annotated[
    OnExit,
    typer.Option(
        envvar="NETPOL_ON_EXIT",
        help="At the end keep the table, open all pods, or close the isolated ones.",
    ),
]
Owned = Annotated[
    bool,
    typer.Option(
        "--own-table/--share-table",
        envvar="NETPOL_OWN_TABLE",
        help="Whether the kernel keeps other processes from changing the table (Linux 6.9).",
    ),
]
VerifyEvery = Annotated[
    float,
    typer.Option(
        "--verify-every",
        envvar="NETPOL_VERIFY_EVERY",
        min=1.0,
        help="Seconds between two comparisons of the kernel with the ruleset.",
    ),
]


@app.command()
def run(
    server: Server = "",
    kubeconfig: Kubeconfig = "",
    policy_server: PolicyServer = "",
    policy_kubeconfig: PolicyKubeconfig = "",
    node_name: Node = "",
    pod_cidr: Cidrs = None,
    netns: Netns = "",
    metrics_bind_address: Bind = DEFAULT,
    wait_socket: WaitSocket = "",
    state_dir: StateDir = STATE,
    flow_log: FlowLogPath = "",
    log_group: LogGroup = LOG_GROUP,
    probing: CanaryMode = Probing.AUTO,
    on_exit: Exit = OnExit.KEEP,
    own_table: Owned = True,
    verify_every: VerifyEvery = 600.0,
) -> None:
    """Follow the API server and keep the packet filter equal to its policies."""
    _check_cidrs(pod_cidr)
    chosen = _settings(server, kubeconfig, policy_server, policy_kubeconfig, node_name)
    try:
        endpoint = Endpoint.parse(metrics_bind_address)
    except ValueError as error:
        raise typer.BadParameter(f"--metrics-bind-address: {error}") from None
    options = Options(
        pod_cidrs=tuple(pod_cidr or ()),
        netns=netns,
        endpoint=endpoint,
        wait_socket=Path(wait_socket) if wait_socket else None,
        state=state_dir,
        flow_log=flow_log,
        log_group=log_group,
        probing=probing,
        on_exit=on_exit,
        owned=own_table,
        verify_every=verify_every,
    )
    _finish(daemon.run(chosen, options))


@app.command()
def render(
    server: Server = "",
    kubeconfig: Kubeconfig = "",
    policy_server: PolicyServer = "",
    policy_kubeconfig: PolicyKubeconfig = "",
    node_name: Node = "",
    pod_cidr: Cidrs = None,
    log_group: LogGroup = LOG_GROUP,
) -> None:
    """Print what the server's present state would load, and exit."""
    _check_cidrs(pod_cidr)
    chosen = _settings(server, kubeconfig, policy_server, policy_kubeconfig, node_name)
    compiler = Compiler(node=chosen.node, pod_cidrs=pod_cidr or (), log_group=log_group)
    sys.stdout.write(rendered(_finish(_desired(chosen, compiler))))


@app.command()
def verify(
    server: Server = "",
    kubeconfig: Kubeconfig = "",
    policy_server: PolicyServer = "",
    policy_kubeconfig: PolicyKubeconfig = "",
    node_name: Node = "",
    pod_cidr: Cidrs = None,
    netns: Netns = "",
    log_group: LogGroup = LOG_GROUP,
) -> None:
    """Compare the kernel with what should be loaded; exit status 1 if they differ."""
    _check_cidrs(pod_cidr)
    chosen = _settings(server, kubeconfig, policy_server, policy_kubeconfig, node_name)
    compiler = Compiler(node=chosen.node, pod_cidrs=pod_cidr or (), log_group=log_group)
    found = _finish(_verify(chosen, compiler, netns))
    sys.stdout.writelines(f"{line}\n" for line in found)
    if found:
        raise typer.Exit(1)
    sys.stdout.write("the kernel holds what it should\n")


@app.command()
def flows(
    address: show.Address = DEFAULT,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Of either end.")] = "",
    pod: Annotated[str, typer.Option(help="A pod's name, or an address; of either end.")] = "",
    verdict: Annotated[str, typer.Option(help="denied or audited.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    output: show.Output = "",
) -> None:
    """Print the flows that this host denied, or would have, with the reason of each."""
    asked: dict[str, str | int] = {"limit": limit}
    given = {"namespace": namespace, "pod": pod, "verdict": verdict}
    asked |= {key: value for key, value in given.items() if value}
    try:
        found = show.fetch(address, "/flows", asked)
    except show.Unreachable as error:
        sys.stderr.write(f"netpol-enforcer: {error}\n")
        raise typer.Exit(show.UNREACHABLE) from None
    if output:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    from enforcer.flows import table as flow_table

    flow_table.show(found["items"], sys.stdout)


@app.command()
def cleanup(netns: Netns = "", state_dir: StateDir = STATE) -> None:
    """Remove the enforcer's tables and what it saved: all traffic passes."""
    _finish(_cleanup(netns, state_dir))


show.register(app)


async def _desired(chosen: Settings, compiler: Compiler) -> Ruleset:
    async with daemon.sources(chosen) as sources:
        return await sync.desired(sources, compiler)


async def _verify(chosen: Settings, compiler: Compiler, netns: str) -> list[str]:
    await _desired(chosen, compiler)
    kernel = Kernel(netns=netns)
    table = Table(kernel)
    try:
        ours = await table.found()
        if not ours:
            return [f"there is no table {FAMILY} {TABLE}"]
        if len(ours) > 1:
            return [f"there are several tables: {', '.join(item.name for item in ours)}"]
        table.name = ours[0].name
        found = await table.verify(compiler.rules)
        if canary.is_in(found.removed):
            canary.put(compiler, chosen.node)
            compiler.take()
            found = await table.verify(compiler.rules)
        return differences(found)
    finally:
        kernel.close()


async def _cleanup(netns: str, state_dir: str) -> None:
    kernel = Kernel(netns=netns)
    try:
        await Table(kernel).remove()
        await kernel.inside(tags.remove)
    finally:
        kernel.close()
    if path := saved.place(state_dir, netns):
        saved.remove(path)


def _finish(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a command; what it cannot go on with is one line and exit status 2."""
    try:
        return asyncio.run(work)
    except (BadAccess, Taken, KernelError, httpx.HTTPError, OSError) as error:
        sys.stderr.write(f"netpol-enforcer: {error}\n")
        raise typer.Exit(2) from None
    except BaseExceptionGroup as group:
        expected, others = group.split((Taken, KernelError, OSError))
        if others is not None or expected is None:
            raise
        for leaf in _leaves(expected):
            sys.stderr.write(f"netpol-enforcer: {leaf}\n")
        raise typer.Exit(2) from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


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
            structlog.processors.format_exc_info,
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
