"""The servers of the engines, one of each for the whole run; and what runs first."""

from collections.abc import Iterator

import pytest

from tests.storage.etcd_cluster import EtcdCluster, EtcdServer
from tests.storage.newer_etcd import NEWER
from tests.storage.postgres_server import PostgresServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that workers end at the same time."""
    items.sort(key=lambda item: "faults" not in item.path.parts)


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """Three members of the release that Debian 12 has."""
    cluster = EtcdCluster(tmp_path_factory.mktemp("etcd"))
    yield cluster
    cluster.kill()


@pytest.fixture(scope="session")
def newer_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """A release whose watches tell how far they are."""
    if NEWER is None:
        pytest.skip("no newer etcd on this machine; .ci/setup fetches one")
    server = EtcdServer(tmp_path_factory.mktemp("newer-etcd"), binary=NEWER)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path_factory.mktemp("postgresql"))
    yield server
    server.stop()
