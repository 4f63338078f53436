"""The log, the live keys and the compaction mark."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "log",
        sa.Column("revision", number, primary_key=True, autoincrement=True),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("previous", sa.BigInteger, nullable=False),
        sa.Column("value", sa.LargeBinary),
        sa.Column("old_value", sa.LargeBinary),
        sa.UniqueConstraint("key", "previous", name="log_key_previous"),
        sqlite_autoincrement=True,
    )
    if op.get_bind().dialect.name == "sqlite":
        # Revision 1 is the empty store, so the first write gets 2.
        op.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('log', 1)")
    op.create_index("log_key_revision", "log", ["key", "revision"])
    op.create_table(
        "live",
        sa.Column("key", sa.LargeBinary, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
    state = op.create_table(
        "state",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("compacted", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(state, [{"id": 1, "compacted": 1}])


def downgrade() -> None:
    op.drop_table("state")
    op.drop_table("live")
    op.drop_table("log")
