"""Where the engines are that the tests run over."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.storage.etcd_cluster import EtcdCluster, EtcdServer
from tests.storage.postgres_server import PostgresServer

ENGINES = ("memory", "sqlite", "postgresql", "etcd", "newer etcd")
LASTING = ENGINES[1:]  # those that outlive a server

_STORES = itertools.count()


def address(request: pytest.FixtureRequest, engine: str) -> dict[str, Any]:
    """Where `connect` finds an empty log of an engine."""
    name = f"suite{next(_STORES)}"
    match engine:
        case "etcd":
            cluster: EtcdCluster = request.getfixturevalue("etcd")
            return {"etcd_servers": cluster.endpoints.split(","), "etcd_prefix": name}
        case "newer etcd":
            server: EtcdServer = request.getfixturevalue("newer_etcd")
            return {"etcd_servers": [server.endpoint], "etcd_prefix": name}
        case "postgresql":
            postgres: PostgresServer = request.getfixturevalue("postgresql")
            return {"database_url": postgres.database(name)}
        case "sqlite":
            folder: Path = request.getfixturevalue("tmp_path")
            return {"database_url": f"sqlite:///{folder}/log.sqlite"}
    return {"database_url": "memory:"}


def flags(where: dict[str, Any]) -> list[str]:
    """The same for the command line of a server."""
    found = {name.replace("_", "-"): value for name, value in where.items()}
    return [
        part
        for name, value in found.items()
        for part in (f"--{name}", value if isinstance(value, str) else ",".join(value))
    ]
