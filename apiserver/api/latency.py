"""Where the time of a request goes: spans add up by name, for the event of its audit.

The task of a request that is audited opens an account, and what it calls is charged to that.
Without one nothing is kept. k8s.io/apiserver `pkg/endpoints/request/webhook_duration.go`.
"""

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar

Account = dict[str, float]  # seconds by name

_account: ContextVar[Account | None] = ContextVar("latency", default=None)


def opened() -> Account:
    """An account for what the current task does from here on."""
    account: Account = {}
    _account.set(account)
    return account


def spent(name: str, seconds: float) -> None:
    account = _account.get()
    if account is not None:
        account[name] = account.get(name, 0.0) + seconds


@contextlib.contextmanager
def span(name: str) -> Iterator[None]:
    """Charge what is done inside."""
    begun = time.perf_counter()
    try:
        yield
    finally:
        spent(name, time.perf_counter() - begun)
