"""Bring the tables of a database up to date, by alembic's migrations.

alembic is imported only where there is something to do: that takes longer than all the rest of a
start.
"""

from sqlalchemy import Connection, inspect, text

from storage.contract import StorageError

HEAD = "0002"
FOLDER = "migrations:"


def current(connection: Connection) -> str:
    """The version of the database's tables; empty where there are none."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "")


def migrate(connection: Connection, version: str = "head") -> None:
    """Go up or down to a version, in the transaction of the connection.

    `StorageError` for tables that a newer release made, or a version that there is not.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", FOLDER)
    config.attributes["connection"] = connection
    stands = current(connection)
    try:
        if stands:
            ScriptDirectory.from_config(config).get_revision(stands)
        down = version == "base" or version.startswith("-") or version < stands
        (command.downgrade if down else command.upgrade)(config, version)
    except CommandError as error:
        raise StorageError(
            f"the database has the tables of version {stands or 'none'}, and {version!r} is asked"
            f" for; this release knows up to {HEAD}: {error}"
        ) from error


def bring_up(connection: Connection) -> None:
    """What a server does at its start."""
    if current(connection) != HEAD:
        migrate(connection)
