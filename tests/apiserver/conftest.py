"""A real server as a process, and a client for it."""

import itertools
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.lab.cluster import POLICIES, Api
from tests.lab.processes import Server

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
