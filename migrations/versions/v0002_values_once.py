"""Keep each value once: a row points to the one that it replaced.

The newest revision gets a row, which writers lock, in place of a numbering by the database. Keys
lose the `/registry` that they all began with: that is etcd's own prefix.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ROOT = b"/registry"


def upgrade() -> None:
    for table in ("log", "live", "state"):
        _set_aside(table)
    op.create_table(
        "log",
        sa.Column("revision", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("value", sa.LargeBinary),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("previous", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "live",
        sa.Column("key", sa.LargeBinary, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "state",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("compacted", sa.BigInteger, nullable=False),
        sa.Column("swept", sa.BigInteger, nullable=False),
    )
    bare = "CASE WHEN substr(key, 1, 9) = :root THEN substr(key, 10) ELSE key END"
    _run(
        "INSERT INTO log (revision, key, value, created, previous)"
        f" SELECT revision, {bare}, value, created,"
        " CASE WHEN created = revision THEN 0 ELSE previous END FROM old_log",
        root=ROOT,
    )
    # The event at the mark can still be watched, but the row that it replaced had been removed.
    _run(
        "INSERT INTO log (revision, key, value, created, previous)"
        f" SELECT previous, {bare}, old_value, created, 0 FROM old_log"
        " WHERE old_value IS NOT NULL AND revision = (SELECT compacted FROM old_state)"
        " AND previous NOT IN (SELECT revision FROM log)",
        root=ROOT,
    )
    _run(f"INSERT INTO live (key, revision) SELECT {bare}, revision FROM old_live", root=ROOT)
    _run(
        "INSERT INTO state (id, revision, compacted, swept)"
        f" SELECT id, {_highest()}, compacted, compacted - 1 FROM old_state"
    )
    for table in ("old_log", "old_live", "old_state"):
        op.drop_table(table)


def downgrade() -> None:
    for table in ("log", "live", "state"):
        _set_aside(table)
    op.create_table(
        "log",
        sa.Column("revision", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("previous", sa.BigInteger, nullable=False),
        sa.Column("value", sa.LargeBinary),
        sa.Column("old_value", sa.LargeBinary),
        sa.UniqueConstraint("key", "previous", name="log_key_previous"),
        sqlite_autoincrement=True,
    )
    op.create_index("log_key_revision", "log", ["key", "revision"])
    op.create_table(
        "live",
        sa.Column("key", sa.LargeBinary, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "state",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("compacted", sa.BigInteger, nullable=False),
    )
    op.create_index("old_log_key", "old_log", ["key", "revision"])
    key = "CAST(:root || {} AS BLOB)" if _sqlite() else "CAST(:root AS bytea) || {}"
    # A creation stood on the deletion before it, where that is still kept.
    before = (
        "(SELECT max(o.revision) FROM old_log o WHERE o.key = n.key AND o.revision < n.revision)"
    )
    _run(
        "INSERT INTO log (revision, key, deleted, created, previous, value, old_value)"
        f" SELECT n.revision, {key.format('n.key')}, n.value IS NULL, n.created,"
        f" CASE WHEN n.previous = 0 THEN coalesce({before}, 0) ELSE n.previous END,"
        " n.value, p.value"
        " FROM old_log n LEFT JOIN old_log p ON p.revision = n.previous ORDER BY n.revision",
        root=ROOT,
    )
    _run(
        "INSERT INTO live (key, revision, created, value)"
        f" SELECT {key.format('l.key')}, l.revision, n.created, n.value"
        " FROM old_live l JOIN old_log n ON n.revision = l.revision",
        root=ROOT,
    )
    _run("INSERT INTO state (id, compacted) SELECT id, compacted FROM old_state")
    if _sqlite():
        _run("DELETE FROM sqlite_sequence WHERE name = 'log'")
        _run("INSERT INTO sqlite_sequence (name, seq) SELECT 'log', revision FROM old_state")
    else:
        _run("SELECT setval(pg_get_serial_sequence('log', 'revision'), revision) FROM old_state")
    for table in ("old_log", "old_live", "old_state"):
        op.drop_table(table)


def _set_aside(table: str) -> None:
    op.rename_table(table, f"old_{table}")
    if not _sqlite():
        op.execute(f"ALTER INDEX {table}_pkey RENAME TO old_{table}_pkey")


def _highest() -> str:
    """The highest revision ever given, also where compaction has removed its row."""
    newest = "SELECT coalesce(max(revision), 1) FROM old_log"
    if _sqlite():
        return f"max(({newest}), (SELECT seq FROM sqlite_sequence WHERE name = 'old_log'))"
    return f"greatest(({newest}), (SELECT last_value FROM log_revision_seq))"


def _sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _run(statement: str, **values: bytes) -> None:
    op.get_bind().execute(sa.text(statement), values)
