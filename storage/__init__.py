"""A revisioned key-value log behind one contract; see README.md."""

from storage.contract import (
    Batch,
    Compacted,
    Condition,
    Conflict,
    Event,
    EventType,
    FutureRevision,
    KeyExists,
    Page,
    Record,
    Renewable,
    StorageError,
    Store,
    TooLarge,
    Unavailable,
)

__all__ = [
    "Batch",
    "Compacted",
    "Condition",
    "Conflict",
    "Event",
    "EventType",
    "FutureRevision",
    "KeyExists",
    "Page",
    "Record",
    "Renewable",
    "StorageError",
    "Store",
    "TooLarge",
    "Unavailable",
]
