"""Where the time of a request goes: spans add up by name, for the event of its audit.

The task of a request that is audited opens an account, and what it calls is charged to that.
Without one nothing is kept. k8s.io/apiserver `pkg/endpoints/request/webhook_duration.go`.
"""

import time
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


class Span:
    """Charge what is done inside a `with`. It is on hot paths, and so no generator."""

    __slots__ = ("_begun", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun = 0.0

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        spent(self._name, time.perf_counter() - self._begun)
