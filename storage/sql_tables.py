"""The tables of the SQL engines; `migrations` creates them.

The log is append-only: a row a write, and a value is stored once. What a row replaced is found by
its `previous`, which is also how old states are read and what compaction forgets.
"""

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Table
from sqlalchemy.types import TypeEngine

FIRST = 1  # the revision of the empty store: 0 never names a state

metadata = MetaData()

# SQLite keeps a table in the order of its key only where the key is exactly an INTEGER.
_revision: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")

# Revisions are given under the lock of the `state` row, in the order of the commits and without a
# gap: whoever sees a revision sees all before it.
log = Table(
    "log",
    metadata,
    Column("revision", _revision, primary_key=True, autoincrement=False),
    # UTF-8 bytes, so that every database orders keys as the contract says.
    Column("key", LargeBinary, nullable=False),
    # NULL: the key was deleted.
    Column("value", LargeBinary),
    # The revision that created the key; the row's own for a creation.
    Column("created", BigInteger, nullable=False),
    # The revision that this one replaced; 0 for a creation.
    Column("previous", BigInteger, nullable=False),
)

# A row for each live key: listing the newest state never reads history.
live = Table(
    "live",
    metadata,
    Column("key", LargeBinary, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# One row. States before `compacted` are forgotten; rows that only they needed have been removed up
# to `swept`.
state = Table(
    "state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
    Column("compacted", BigInteger, nullable=False),
    Column("swept", BigInteger, nullable=False),
)
