"""What an operator does by hand: `netpol-apiserver migrate`, `backup`, `restore` and `doctor`.

`main` hands over to these; they serve nothing.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
import uvloop

import storage
from apiserver.settings import default_database
from storage.connect import sqlite_path

Database = Annotated[
    str,
    typer.Option(
        "--database-url",
        envvar="NETPOL_DATABASE_URL",
        help="The server's; left out, its default file.",
        show_default=False,
    ),
]

app = typer.Typer(
    help="Look after the store of netpol-apiserver, and after its place in a cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def migrate(
    database_url: Database = "",
    to: Annotated[
        str, typer.Option(help="A version such as 0001, base for no tables, head for the newest.")
    ] = "head",
) -> None:
    """Take the tables of a database up or down. A server takes them up by itself at its start."""
    from storage.migrate import migrate as go

    with _refusals():
        before, after = uvloop.run(go(database_url or default_database(), to))
    typer.echo(f"tables {before or 'none'} -> {after or 'none'}")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The copy to make; it must not exist yet.")],
    database_url: Database = "",
) -> None:
    """Copy a SQLite store, also while the server runs."""
    from storage import sqlite_backup

    with _refusals():
        source = sqlite_path(database_url or default_database())
        revision = sqlite_backup.backup(source, file)
    typer.echo(f"{file}: revision {revision}")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A copy that backup made.")],
    database_url: Database = "",
) -> None:
    """Put a copy in the place of a SQLite store whose server is stopped; the old one is kept."""
    from storage import sqlite_backup

    with _refusals():
        target = sqlite_path(database_url or default_database())
        revision = sqlite_backup.restore(file, target)
    typer.echo(f"{target}: revision {revision}; clients list again")


@app.command()
def doctor(
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            envvar="NETPOL_KUBECONFIG", help="The server's; left out, the pod's service account."
        ),
    ] = None,
    tls_cert_file: Annotated[
        Path | None,
        typer.Option(envvar="NETPOL_TLS_CERT_FILE", help="What the server serves with, if here."),
    ] = None,
    service_account: Annotated[
        str, typer.Option(help="The server's, for the commands that are proposed.")
    ] = "networkpolicys",
) -> None:
    """Say what is wrong between the cluster and the server, and what to type. 1: something is."""
    from apiserver.cluster.access import Access, BadAccess
    from apiserver.doctor import examine

    async def look() -> bool:
        access = Access.from_kubeconfig(kubeconfig) if kubeconfig else Access.in_cluster()
        well = True
        async for finding in examine(access, certificate=tls_cert_file, account=service_account):
            typer.echo(str(finding))
            well &= finding.good
        return well

    try:
        well = uvloop.run(look())
    except BadAccess as error:
        sys.stderr.write(f"netpol-apiserver: {error}\n")
        raise typer.Exit(2) from None
    if not well:
        raise typer.Exit(1)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """A refusal of the store is one line and exit status 1."""
    try:
        yield
    except storage.StorageError as error:
        sys.stderr.write(f"netpol-apiserver: {error}\n")
        raise typer.Exit(1) from None
