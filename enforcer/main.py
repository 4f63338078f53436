"""netpol-enforcer: run, render, verify, cleanup."""

import asyncio
import contextlib
import difflib
import logging
import random
import signal
import sys
from collections.abc import Coroutine
from ipaddress import ip_network
from typing import Annotated, Any

import httpx
import structlog
import typer

from enforcer import fetch, sync
from enforcer.diff import diff
from enforcer.nft import dump
from enforcer.nft.kernel import Kernel, KernelError
from enforcer.ruleset import FAMILY, TABLE, Ruleset

app = typer.Typer(
    help="Program this host's packet filter with the network policies of an API server.",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Server = Annotated[str, typer.Option(envvar="NETPOL_SERVER", help="URL of the API server.")]
Node = Annotated[
    str,
    typer.Option(
        "--node-name",
        envvar="NETPOL_NODE_NAME",
        help="Pods of this node are protected; left out, all pods are.",
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
DEFAULT_SERVER = "http://127.0.0.1:8080"


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Without a command: run, with settings from the environment."""
    _configure_logs()
    if context.invoked_subcommand is None:
        context.invoke(run)


@app.command()
def run(
    server: Server = DEFAULT_SERVER,
    node_name: Node = "",
    pod_cidr: Cidrs = None,
    netns: Netns = "",
) -> None:
    """Follow the API server and keep the packet filter equal to its policies."""
    _check_cidrs(pod_cidr)
    asyncio.run(_run(server, node_name, pod_cidr or [], netns))


@app.command()
def render(server: Server = DEFAULT_SERVER, node_name: Node = "", pod_cidr: Cidrs = None) -> None:
    """Print what the server's present state would load, and exit."""
    _check_cidrs(pod_cidr)
    want = _finish(_desired(server, node_name, pod_cidr or []))
    sys.stdout.write(diff(None, want).text())


@app.command()
def verify(
    server: Server = DEFAULT_SERVER,
    node_name: Node = "",
    pod_cidr: Cidrs = None,
    netns: Netns = "",
) -> None:
    """Compare the kernel with what should be loaded; exit status 1 if they differ."""
    _check_cidrs(pod_cidr)
    differences = _finish(_verify(server, node_name, pod_cidr or [], netns))
    sys.stdout.writelines(f"{line}\n" for line in differences)
    if differences:
        raise typer.Exit(1)
    sys.stdout.write("the kernel holds what it should\n")


@app.command()
def cleanup(netns: Netns = "") -> None:
    """Remove the enforcer's table: all traffic passes."""
    _finish(_cleanup(netns))


async def _run(server: str, node: str, cidrs: list[str], netns: str) -> None:
    kernel = Kernel(netns=netns)
    async with fetch.client(server) as http:
        enforcer = sync.Enforcer(
            http=http, kernel=kernel, node=node, pod_cidrs=cidrs, rand=random.SystemRandom()
        )
        task = asyncio.create_task(enforcer.run(), name="enforcer")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task
    kernel.close()
    structlog.get_logger().info("stopped; the table stays in place")


async def _desired(server: str, node: str, cidrs: list[str]) -> Ruleset:
    async with fetch.client(server) as http:
        return await sync.desired(http, node=node, pod_cidrs=cidrs)


async def _verify(server: str, node: str, cidrs: list[str], netns: str) -> list[str]:
    want = await _desired(server, node, cidrs)
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
    """Run a command that ends; what goes wrong is one line and exit status 2."""
    try:
        return asyncio.run(work)
    except (KernelError, httpx.HTTPError, OSError) as error:
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
    """The console script."""
    app()


if __name__ == "__main__":
    main()
