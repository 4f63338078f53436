"""A real server as a process, and a client for it."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.lab.cluster import POLICIES, Api
from tests.lab.processes import Server
from tests.storage.etcd_cluster import EtcdServer

_NAMES = itertools.count()


@pytest.fixture(scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    started = Server(tmp_path_factory.mktemp("server"), "--database-url", "memory:")
    try:
        await started.start()
        yield started
    finally:
        await started.stop()


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20) as client:
        yield client


@pytest.fixture
async def policies(http: httpx.AsyncClient) -> str:
    """The collection of a namespace of its own."""
    name = f"test-{next(_NAMES)}"
    await Api(http).namespace(name)
    return f"{POLICIES}/namespaces/{name}/networkpolicys"


@pytest.fixture
async def on_etcd(tmp_path: Path) -> AsyncIterator[tuple[Server, EtcdServer]]:
    etcd = EtcdServer(tmp_path)
    server = Server(tmp_path, "--etcd-servers", etcd.endpoint)
    try:
        await server.start()
        yield server, etcd
    finally:
        etcd.kill()
        await server.stop()
