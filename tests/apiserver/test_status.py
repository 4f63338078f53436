"""The Status of failures that no request brings about at will."""

import asyncio

import pytest

from apiserver.api import builtin, status
from apiserver.http.limits import Limits
from apiserver.http.request_info import RequestInfo


def test_E15_an_unforeseen_failure_is_500() -> None:
    assert status.internal("x").as_json() == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "Internal error occurred: x",
        "reason": "InternalError",
        "details": {"causes": [{"message": "x"}]},
        "code": 500,
    }


async def test_E17_E19_FC05_what_comes_while_the_server_ends_is_503() -> None:
    stopping = asyncio.Event()
    limits = Limits(reads=1, writes=1, timeout=1, stopping=stopping)
    done = []

    async def call() -> None:
        done.append(True)

    info = RequestInfo("list", builtin.PODS)
    await limits.run(call, info, "")
    stopping.set()
    with pytest.raises(status.StatusError) as raised:
        await limits.run(call, info, "")
    assert done == [True]
    body = raised.value.as_json()
    assert (body["code"], body["reason"]) == (503, "ServiceUnavailable")
    assert body["message"] == "apiserver is shutting down"
    assert body["details"] == {"retryAfterSeconds": 1}
    await limits.run(call, None, "")  # probes are answered to the end


async def test_E18_what_lasts_too_long_is_504_and_the_server_may_end_it_before() -> None:
    limits = Limits(reads=2, writes=1, timeout=30, stopping=asyncio.Event())
    info = RequestInfo("list", builtin.PODS)

    async def forever() -> None:
        await asyncio.Event().wait()

    late, ended = [asyncio.create_task(limits.run(forever, info, asked)) for asked in ("20ms", "")]
    with pytest.raises(status.StatusError) as raised:
        await late
    assert (raised.value.code, raised.value.reason) == (504, "Timeout")
    assert not ended.done()
    ended.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ended
    assert limits.reading == 0
