"""Copy a SQLite store while it serves, and bring a copy back so that revisions never go back.

Whoever watches has seen revisions that the copy does not know. So every object of a restored store
gets a revision above all that were ever given, and history begins anew: clients list again.
"""

import contextlib
import itertools
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import URL, create_engine, text

from storage import sql_schema, sqlite
from storage.contract import StorageError

# How far ahead of its backup a lost store may have been: a thousand writes a second for 11 days.
LOST = 1_000_000_000


def backup(source: Path, copy: Path) -> int:
    """Copy the store as it is now into a new file; the copy's revision.

    `StorageError` where the copy exists already, or the source is no store.
    """
    if copy.exists():
        raise StorageError(f"{copy} exists; a backup never replaces a file")
    if not source.is_file():
        raise StorageError(f"{source} does not exist")
    with _beside(copy) as partial:
        _copy(source, partial)
        revision = _newest(partial)
        _publish(partial, copy)
    return revision


def restore(copy: Path, target: Path) -> int:
    """Put a copy in the place of a store that no server uses; its new revision.

    What stood there is kept as `*.replaced`, and its owner and mode with the file. `StorageError`
    where the store is in use, or the copy is none or of a newer release.
    """
    if not copy.is_file():
        raise StorageError(f"{copy} does not exist")
    target = target.resolve()
    lock = sqlite.hold(target)
    try:
        found = target.exists()
        model = target.stat() if found else target.parent.stat()
        _give(lock, model)
        known = _settled(target) if found else 0
        with _beside(target) as partial:
            _copy(copy, partial)
            revision = _begin_anew(partial, known)
            _give(partial, model)
            if found:
                partial.chmod(stat.S_IMODE(model.st_mode))
                _keep(target)
            _publish(partial, target)
        return revision
    finally:
        os.close(lock)


def _give(file: Path | int, model: os.stat_result) -> None:
    """To the owner of another, where that is in our power: a server need not be root."""
    with contextlib.suppress(PermissionError):
        os.chown(file, model.st_uid, model.st_gid)


def _keep(path: Path) -> None:
    """Give a file a second name, which none has yet."""
    for number in itertools.count(1):
        more = f"-{number}" if number > 1 else ""
        with contextlib.suppress(FileExistsError):
            os.link(path, path.with_name(f"{path.name}.replaced{more}"))
            return


def _copy(source: Path, to: Path) -> None:
    """A consistent copy of the committed state; a server goes on writing meanwhile."""
    try:
        with _opened(source) as reading, _opened(to) as writing:
            reading.backup(writing)
            found = writing.execute("PRAGMA quick_check").fetchone()[0]
    except sqlite3.Error as error:
        raise StorageError(f"cannot copy {source}: {error}") from error
    if found != "ok":
        raise StorageError(f"{source} is damaged: {found}")


def _begin_anew(path: Path, known: int) -> int:
    """Give every object a new revision above `known`, and forget all history."""
    engine = create_engine(URL.create("sqlite", database=str(path)))
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            if not sql_schema.current(connection):
                raise StorageError(f"{path.name}: the copy is no store of networkpolicys")
            sql_schema.bring_up(connection)
            newest = int(connection.execute(text("SELECT revision FROM state")).scalar_one())
            base = max(newest, known) if known else newest + LOST
            for statement in ANEW:
                connection.execute(text(statement), {"base": base})
            revision = int(connection.execute(text("SELECT revision FROM state")).scalar_one())
            connection.commit()
    finally:
        engine.dispose()
    return revision


ANEW = (
    "DELETE FROM log WHERE revision NOT IN (SELECT revision FROM live)",
    # The numbers of the objects in the order of their keys, first out of the way of the old ones.
    "UPDATE log SET previous = (SELECT n FROM (SELECT revision AS r, row_number() OVER"
    " (ORDER BY key) AS n FROM live) WHERE r = log.revision)",
    "UPDATE log SET revision = -previous, created = min(created, :base)",
    "UPDATE log SET revision = :base - revision, previous = 0",
    "UPDATE live SET revision = (SELECT revision FROM log WHERE log.key = live.key)",
    "UPDATE state SET revision = :base + 1 + (SELECT count(*) FROM live)",
    "UPDATE state SET compacted = revision, swept = revision - 1",
)


def _settled(path: Path) -> int:
    """The newest revision of a store that nobody uses, whose file then is all there is of it.

    It has no `-wal` any more, which would not fit what takes its place.
    """
    try:
        with _opened(path) as connection:
            # This is refused while anybody else has the file open.
            connection.execute("PRAGMA journal_mode=DELETE")
        return _newest(path)
    except (sqlite3.Error, StorageError) as error:
        if getattr(error, "sqlite_errorname", "") in ("SQLITE_BUSY", "SQLITE_LOCKED"):
            raise StorageError(
                f"{path} is open in another program, such as a backup or sqlite3; end that first"
            ) from error
        raise StorageError(
            f"cannot tell which revisions {path} has given: {error}; move it away to restore"
            " without it"
        ) from error


def _newest(path: Path) -> int:
    with _opened(path) as connection:
        try:
            found = connection.execute("SELECT revision FROM state").fetchone()
        except sqlite3.Error:
            try:  # the tables of the first release
                found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'log'")
                found = found.fetchone()
            except sqlite3.Error as error:
                raise StorageError(f"{path.name} is no store of networkpolicys") from error
    return int(found[0]) if found else 0


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A file beside another, for what is not complete yet; gone at the end."""
    partial = path.with_name(f"{path.name}.partial")
    _discard(partial)
    try:
        yield partial
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error}") from error
    finally:
        _discard(partial)


def _discard(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _publish(partial: Path, path: Path) -> None:
    """Put a complete file in its place, so that a crash leaves it there or as it was."""
    with _opened(partial) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    descriptor = os.open(partial, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
