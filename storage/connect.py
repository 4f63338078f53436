"""Choose and open an engine by its address; engines are imported only when they are wanted."""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from storage.contract import StorageError, Store


async def connect(
    *,
    etcd_servers: Sequence[str] = (),
    etcd_prefix: str = "",
    etcd_cafile: Path | None = None,
    etcd_certfile: Path | None = None,
    etcd_keyfile: Path | None = None,
    database_url: str = "",
) -> Store:
    """etcd where servers are named, else the database of the URL.

    `memory:` is the engine that forgets at the end. `StorageError` says what is wrong with a URL
    or a file.
    """
    if etcd_servers:
        from storage.etcd import EtcdStore

        return EtcdStore(
            endpoints=etcd_servers,
            prefix=etcd_prefix,
            cafile=etcd_cafile,
            certfile=etcd_certfile,
            keyfile=etcd_keyfile,
        )
    if database_url == "memory:":
        from storage.memory import MemoryStore

        return MemoryStore()
    if database_url.startswith("sqlite"):
        from storage.sqlite import open_sqlite

        return await open_sqlite(sqlite_path(database_url))
    if database_url.startswith("postgres"):
        from storage.postgresql import open_postgresql

        return await open_postgresql(database_url)
    raise StorageError(
        f"no engine for {without_password(database_url)!r}; use sqlite+aiosqlite:////path/to/file,"
        " postgresql://user@host/database or --etcd-servers"
    )


def without_password(url: str) -> str:
    """A URL as it may be shown."""
    return re.sub(r"//([^/@]*?):[^/]*@", r"//\1:***@", url)


def sqlite_path(database_url: str) -> Path:
    """The file of a SQLite URL: what comes after its three slashes. `StorageError`."""
    parts = urlsplit(database_url)
    path = unquote(parts.path[1:])
    if parts.scheme.partition("+")[0] != "sqlite" or parts.netloc or path in ("", ":memory:"):
        raise StorageError(
            f"{without_password(database_url)!r} names no SQLite file; use sqlite:////absolute/path/to/file"
        )
    return Path(path)
