"""Run a coroutine at once, as far as it goes without waiting.

A watch line is sent to hundreds of clients for one change; waking a task for each would cost more
than the sending. Nearly always a send does not wait, and then no task is needed.
"""

import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any


def start(work: Coroutine[Any, Any, None]) -> Awaitable[None] | None:
    """None if the coroutine is done; else what is left of it, which must be awaited.

    It may wait for futures only: what asks for the current task would find the caller's.
    """
    try:
        waited = work.send(None)
    except StopIteration:
        return None
    return _resume(work, waited)


@types.coroutine
def _resume(work: Coroutine[Any, Any, None], waited: Any) -> Generator[Any, Any, None]:
    try:
        while True:
            try:
                value = yield waited
            except BaseException as error:  # noqa: BLE001  a cancellation too is the coroutine's
                waited = work.throw(error)
            else:
                waited = work.send(value)
    except StopIteration:
        return
