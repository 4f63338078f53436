"""Take a database's tables to a version by hand: up before a new release, down to go back."""

from sqlalchemy import Connection

from storage import postgresql, sql_schema, sqlite
from storage.connect import sqlite_path
from storage.contract import StorageError


async def migrate(database_url: str, version: str) -> tuple[str, str]:
    """The versions before and after; an empty one: no tables.

    `version` is one of alembic's: `head`, `base`, a number or `-1`. `StorageError`.
    """
    database: sqlite.SqliteDatabase | postgresql.PostgresDatabase
    if database_url.startswith("sqlite"):
        database = sqlite.open_database(sqlite_path(database_url))
    elif database_url.startswith("postgres"):
        database = postgresql.open_database(database_url, patient=True)
    else:
        raise StorageError(f"{database_url!r} is no database that has tables")

    def go(connection: Connection) -> tuple[str, str]:
        before = sql_schema.current(connection)
        sql_schema.migrate(connection, version)
        return before, sql_schema.current(connection)

    try:
        return await database.migrating(go)
    finally:
        await database.close()
