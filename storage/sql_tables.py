"""The tables of the SQL engines; `migrations` creates them.

`log` is append-only: one row a write, its revision the primary key. AUTOINCREMENT keeps the
highest revision ever given, also when compaction has removed its row.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    UniqueConstraint,
)
from sqlalchemy.types import TypeEngine

metadata = MetaData()

# SQLite numbers rows by itself only in a column of exactly the type INTEGER.
_revision: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")

log = Table(
    "log",
    metadata,
    Column("revision", _revision, primary_key=True, autoincrement=True),
    # UTF-8 bytes, so that every database orders keys as the contract says.
    Column("key", LargeBinary, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("previous", BigInteger, nullable=False),
    Column("value", LargeBinary),
    Column("old_value", LargeBinary),
    # Two writes on top of the same state of a key: the second one fails. This is the
    # compare-and-swap, whatever the isolation level.
    UniqueConstraint("key", "previous", name="log_key_previous"),
    Index("log_key_revision", "key", "revision"),
    sqlite_autoincrement=True,
)

# One row for each live key: listing the newest state never reads history.
live = Table(
    "live",
    metadata,
    Column("key", LargeBinary, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("value", LargeBinary, nullable=False),
)

# One row: states before `compacted` are forgotten.
state = Table(
    "state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("compacted", BigInteger, nullable=False),
)
