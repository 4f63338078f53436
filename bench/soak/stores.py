"""How large a store is: what it says of itself, and its files.

What a database keeps ready for its next writes is not counted: it is bounded by settings of its own
and no history. That is PostgreSQL's write-ahead log, and etcd's with its snapshots.
"""

import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from bench.engines import Engine
from bench.footprint import MB

TABLES = """
SELECT sum(pg_total_relation_size(oid)) FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
"""
WRITE_AHEAD = "pg_wal"


async def sizes(engine: Engine) -> Mapping[str, float]:
    """In MB, by what it is the size of."""
    match engine.name:
        case "etcd":
            return {
                "in use": _etcd_in_use(engine.beside),
                "db file": _bytes(engine.files / "member" / "snap" / "db") / MB,
            }
        case "postgresql":
            return {"tables": await _tables(engine), "folder": _folder(engine.files)}
        case _:
            found = engine.files.glob("ours.sqlite*")
            return {"file and WAL": sum(map(_bytes, found)) / MB}


def _etcd_in_use(endpoint: str) -> float:
    request = urllib.request.Request(f"{endpoint}/v3/maintenance/status", data=b"{}")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(json.load(answer)["dbSizeInUse"]) / MB


async def _tables(engine: Engine) -> float:
    (url,) = engine.flags[1:]
    parts = urlsplit(url)
    connection = await asyncpg.connect(
        host=parts.hostname, port=parts.port, user=parts.username, database=parts.path[1:]
    )
    try:
        return float(await connection.fetchval(TABLES)) / MB
    finally:
        await connection.close()


def _folder(folder: Path) -> float:
    files = (path for path in folder.rglob("*") if WRITE_AHEAD not in path.parts)
    return sum(map(_bytes, files)) / MB


def _bytes(path: Path) -> int:
    """0 for a file that has just gone."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0
