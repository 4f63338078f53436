"""The engines of a run as processes: etcd and PostgreSQL as the tests start them, or a file."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.storage.etcd_cluster import EtcdServer
from tests.storage.postgres_server import PostgresServer

SQL = ("sqlite", "postgresql")
NAMES = (*SQL, "etcd")


@dataclass(frozen=True, slots=True)
class Engine:
    """`flags` have the server use it; `beside` is where a floor finds the same kind of engine.

    `beside` is a URL of SQLAlchemy, or the endpoint of the etcd that both use. `files` is the
    folder of all that the engine writes.
    """

    name: str
    flags: tuple[str, ...]
    beside: str
    files: Path


@contextlib.contextmanager
def started(name: str, folder: Path) -> Iterator[Engine]:
    """An engine that is empty, and ends with the block."""
    match name:
        case "etcd":
            etcd = EtcdServer(folder)
            try:
                flags = ("--etcd-servers", etcd.endpoint)
                yield Engine(name, flags, etcd.endpoint, folder / "data")
            finally:
                etcd.kill()
        case "postgresql":
            postgres = PostgresServer(folder)
            try:
                flags = ("--database-url", postgres.database("ours"))
                yield Engine(
                    name, flags, postgres.database("floor"), folder / "postgresql" / "data"
                )
            finally:
                postgres.stop()
        case "sqlite":
            flags = ("--database-url", f"sqlite:///{folder}/ours.sqlite")
            yield Engine(name, flags, f"sqlite+aiosqlite:///{folder}/floor.sqlite", folder)
        case _:
            raise ValueError(f"no engine {name!r}")
