"""The engines, each behind a factory that opens a fresh store."""

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from storage import Store
from storage.connect import connect
from tests.storage.etcd_server import EtcdServer
from tests.storage.postgres_server import PostgresServer

_STORES = itertools.count()


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path_factory.mktemp("postgresql"))
    yield server
    server.stop()


@pytest.fixture(params=["memory", "sqlite", "postgresql", "etcd"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store of each engine."""
    if request.param == "etcd":
        server: EtcdServer = request.getfixturevalue("etcd")
        opened = await connect(etcd_servers=[server.endpoint], etcd_prefix=f"/suite{next(_STORES)}")
    elif request.param == "postgresql":
        postgres: PostgresServer = request.getfixturevalue("postgresql")
        opened = await connect(database_url=postgres.database(f"suite{next(_STORES)}"))
    elif request.param == "sqlite":
        opened = await connect(database_url=f"sqlite+aiosqlite:///{tmp_path}/log.sqlite")
    else:
        opened = await connect(database_url="memory:")
    yield opened
    await opened.close()
