"""The floor of what goes to etcd: its own requests through grpc.aio, in a process of its own.

It also fills etcd with objects, which over the API would take longer than all that is measured.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable
from multiprocessing.connection import Connection as Pipe
from typing import Any

import grpc.aio
import uvloop

from bench import policies
from bench.aside import Aside
from storage import etcd_proto

OPTIONS = (("grpc.max_receive_message_length", -1),)
PUTS = 100  # puts of one transaction when etcd is filled; it takes 128
FILLING = 16  # such transactions under way at once
PAGE = 5_000  # keys of a page, as the engine asks for at the most
MOD = 2  # Compare.CompareTarget


class BareEtcd:
    """Asks the etcd at an endpoint. Use it as a context manager."""

    def __init__(self, endpoint: str) -> None:
        self._aside = Aside(_work, endpoint)

    def __enter__(self) -> "BareEtcd":
        self._aside.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._aside.__exit__(*error)

    def swaps(self, value: bytes, *, in_flight: int, seconds: float) -> float:
        """Transactions per second that each put a new key where there is none."""
        rate: float = self._aside.ask((_swaps, value, in_flight, seconds))
        return rate

    def scan(self, prefix: str, expected: int) -> float:
        """Seconds to read all keys and values under a prefix, page by page."""
        seconds: float = self._aside.ask((_scan, prefix, expected))
        return seconds

    def fill(self, prefix: str, count: int, picked: int) -> None:
        """Put so many policies under a prefix."""
        self._aside.ask((_fill, prefix, count, picked))


def _work(pipe: Pipe, endpoint: str) -> None:
    uvloop.run(_serve(pipe, endpoint))


async def _serve(pipe: Pipe, endpoint: str) -> None:
    """Nothing else runs on this loop between two questions, so it may wait for the pipe."""
    pb, stubs = etcd_proto.load()
    address = endpoint.rpartition("://")[2]
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        kv = stubs.KVStub(channel)
        pipe.send(None)
        while True:
            work, *arguments = pipe.recv()
            pipe.send(await work(pb, kv, *arguments))


_numbers = itertools.count()


async def _swaps(pb: Any, kv: Any, value: bytes, in_flight: int, seconds: float) -> float:
    begun = time.monotonic()
    done = 0

    async def swap() -> None:
        nonlocal done
        while time.monotonic() < begun + seconds:
            key = b"/floor/net.alpha.kubernetes.io/networkpolicys/created/%09d" % next(_numbers)
            put = pb.RequestOp(request_put=pb.PutRequest(key=key, value=value))
            get = pb.RequestOp(request_range=pb.RangeRequest(key=key))
            absent = pb.Compare(key=key, target=MOD, mod_revision=0)
            request = pb.TxnRequest(compare=[absent], success=[put], failure=[get])
            if not (await kv.Txn(request)).succeeded:
                raise RuntimeError(f"{key!r} exists")
            done += 1

    await asyncio.gather(*(swap() for _ in range(in_flight)))
    return done / (time.monotonic() - begun)


async def _scan(pb: Any, kv: Any, prefix: str, expected: int) -> float:
    begun = time.monotonic()
    low, end, revision, found = f"{prefix}/".encode(), f"{prefix}0".encode(), 0, 0
    while True:
        request = pb.RangeRequest(key=low, range_end=end, limit=PAGE, revision=revision)
        page = await kv.Range(request)
        revision = page.header.revision
        found += len(page.kvs)
        if not page.more:
            break
        low = page.kvs[-1].key + b"\0"
    if found < expected:
        raise RuntimeError(f"{found} keys found instead of {expected}")
    return time.monotonic() - begun


async def _fill(pb: Any, kv: Any, prefix: str, count: int, picked: int) -> None:
    def transactions() -> Iterable[Any]:
        objects = policies.stored(count, picked)
        while batch := list(itertools.islice(objects, PUTS)):
            puts = [
                pb.PutRequest(key=f"{prefix}{key}".encode(), value=value) for key, value in batch
            ]
            yield pb.TxnRequest(success=[pb.RequestOp(request_put=put) for put in puts])

    await _concurrently(kv.Txn, transactions(), FILLING)


async def _concurrently(
    call: Callable[[Any], Awaitable[Any]], requests: Iterable[Any], count: int
) -> None:
    shared = iter(requests)

    async def work() -> None:
        for request in shared:
            await call(request)

    await asyncio.gather(*(work() for _ in range(count)))
