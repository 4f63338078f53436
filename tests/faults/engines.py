"""The engines under the API servers of a test, all behind what a crash test needs of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.faults.apiserver import ApiServer
from tests.faults.client import Server
from tests.storage.etcd_cluster import EtcdServer
from tests.storage.postgres_server import PostgresServer

ENGINES = ("sqlite", "etcd", "postgresql")


@asynccontextmanager
async def arguments(engine: str, folder: Path) -> AsyncIterator[tuple[str, ...]]:
    """What tells a server to use that engine, which runs meanwhile."""
    match engine:
        case "sqlite":
            yield "--database-url", f"sqlite+aiosqlite:///{folder}/log.sqlite"
        case "etcd":
            etcd = await asyncio.to_thread(EtcdServer, folder)
            try:
                yield "--etcd-servers", etcd.endpoint
            finally:
                etcd.kill()
        case "postgresql":
            postgres = await asyncio.to_thread(PostgresServer, folder)
            try:
                yield "--database-url", postgres.url
            finally:
                postgres.kill()
        case _:
            raise ValueError(engine)


@asynccontextmanager
async def serving(*servers: ApiServer) -> AsyncIterator[list[Server]]:
    """Started, and killed at the end, also where they stand still; their addresses."""
    try:
        for server in servers:
            await server.start()
        yield [server.address for server in servers]
    finally:
        for server in servers:
            await server.kill()
