"""The floor of what goes to a database: inserts into one table that is nothing but a log.

A group of them is a transaction, as durable as the server's, through SQLAlchemy's asynchronous
engines. Each is a statement that is awaited, as whoever wants a row inserted would do it; or all of
a group are one. It runs in a process of its own.
"""

import itertools
import time
from multiprocessing.connection import Connection as Pipe
from typing import Any

import uvloop
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Table, event, insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from bench.aside import Aside
from storage.sqlite import PRAGMAS

metadata = MetaData()
log = Table(
    "floor",
    metadata,
    Column(
        "revision",
        BigInteger().with_variant(Integer(), "sqlite"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("key", LargeBinary, nullable=False),
    Column("value", LargeBinary),
)


class BareSql:
    """Writes to the database of a URL. Use it as a context manager."""

    def __init__(self, url: str) -> None:
        self._aside = Aside(_work, url)

    def __enter__(self) -> "BareSql":
        self._aside.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._aside.__exit__(*error)

    def inserts(self, value: bytes, *, group: int, seconds: float, batched: bool) -> float:
        """Rows per second in transactions of so many; `batched`: of one statement each."""
        rate: float = self._aside.ask((value, group, seconds, batched))
        return rate


def _work(pipe: Pipe, url: str) -> None:
    uvloop.run(_serve(pipe, url))


async def _serve(pipe: Pipe, url: str) -> None:
    engine = create_async_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _configure)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    pipe.send(None)
    revisions = itertools.count(1)
    while True:
        pipe.send(await _inserts(engine, revisions, *pipe.recv()))


async def _inserts(
    engine: AsyncEngine,
    revisions: "itertools.count[int]",
    value: bytes,
    group: int,
    seconds: float,
    batched: bool,
) -> float:
    statement = insert(log)
    written = 0
    async with engine.connect() as connection:
        begun = time.monotonic()
        while time.monotonic() < begun + seconds:
            rows = [
                {
                    "revision": revision,
                    "key": b"/net.alpha.kubernetes.io/networkpolicys/created/%09d" % revision,
                    "value": value,
                }
                for revision in itertools.islice(revisions, group)
            ]
            for part in [rows] if batched else rows:
                await connection.execute(statement, part)
            await connection.commit()
            written += group
        return written / (time.monotonic() - begun)


def _configure(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
