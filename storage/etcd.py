"""The shared engine: etcd 3.4 or newer, through etcd3's stubs over grpc.aio.

Its modification revision is the log's revision. Reads are linearizable and go to the next endpoint
when one fails. A write goes on to the next only where it cannot have been sent: whether a broken
one took effect is not known, and is for the caller to find out.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio

from storage import etcd_proto
from storage.contract import (
    Batch,
    Compacted,
    Conflict,
    Event,
    EventType,
    FutureRevision,
    KeyExists,
    Page,
    Record,
    TooLarge,
    Unavailable,
)

TIMEOUT = 10.0  # seconds a request may take
PAGE = 5_000  # keys a range brings at once
RETRY = (0.05, 2.0)  # seconds before a broken watch is opened again: first and longest
WITH_LEADER = (("hasleader", "true"),)  # a member cut off from the others ends the watch
OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
NOT_SENT = "failed to connect to all addresses"

T = TypeVar("T")


class EtcdStore:
    """See `storage.contract.Store`. `prefix` stands before every key."""

    def __init__(
        self,
        *,
        endpoints: Sequence[str],
        prefix: str = "",
        cafile: Path | None = None,
        certfile: Path | None = None,
        keyfile: Path | None = None,
        rand: random.Random | None = None,
    ) -> None:
        self._pb, stubs = etcd_proto.load()
        self._prefix = prefix
        self._rand = rand or random.Random()
        credentials = _credentials(cafile, certfile, keyfile)
        self._channels = [_channel(endpoint, credentials) for endpoint in endpoints]
        self._kv = [stubs.KVStub(channel) for channel in self._channels]
        self._watch = [stubs.WatchStub(channel) for channel in self._channels]
        self._at = 0

    async def revision(self) -> int:
        response = await self._range(self._pb.RangeRequest(key=b"\0", limit=1, keys_only=True))
        return int(response.header.revision)

    async def get(self, key: str) -> tuple[Record | None, int]:
        response = await self._range(self._pb.RangeRequest(key=self._key(key)))
        record = self._record(response.kvs[0]) if response.kvs else None
        return record, response.header.revision

    async def list(
        self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0
    ) -> Page:
        low, end = self._key(prefix), _prefix_end(self._key(prefix))
        if after:
            low = max(low, self._key(after) + b"\0")
        records: list[Record] = []
        while True:
            wanted = min(PAGE, limit - len(records)) if limit else PAGE
            response = await self._range(
                self._pb.RangeRequest(key=low, range_end=end, limit=wanted, revision=revision),
                revision,
            )
            revision = revision or response.header.revision
            records += map(self._record, response.kvs)
            remaining = response.count - len(response.kvs)
            if not remaining or len(records) == limit:
                return Page(tuple(records), revision, remaining)
            low = response.kvs[-1].key + b"\0"

    async def create(self, key: str, value: bytes) -> int:
        return await self._swap(key, 0, self._put(key, value))

    async def update(self, key: str, value: bytes, *, expected: int) -> int:
        return await self._swap(key, expected, self._put(key, value))

    async def delete(self, key: str, *, expected: int) -> int:
        request = self._pb.DeleteRangeRequest(key=self._key(key))
        operation = self._pb.RequestOp(request_delete_range=request)
        return await self._swap(key, expected, operation)

    async def watch(self, prefix: str, *, after: int) -> AsyncGenerator[Batch, None]:
        reached, delay = after, RETRY[0]
        while True:
            call = self._watch[self._at].Watch(metadata=WITH_LEADER)
            try:
                await call.write(self._watch_request(prefix, reached))
                while (response := await call.read()) is not grpc.aio.EOF:
                    if response.canceled:
                        if response.compact_revision:
                            raise Compacted(response.compact_revision)
                        break
                    delay = RETRY[0]
                    events = tuple(map(self._event, response.events))
                    # The header tells etcd's newest revision, which can be ahead of what a watch
                    # that catches up has been sent: only the events say how far it is complete.
                    reached = events[-1].revision if events else reached
                    yield Batch(events, reached)
            except grpc.aio.AioRpcError:
                pass
            finally:
                call.cancel()
            self._at = (self._at + 1) % len(self._channels)
            await asyncio.sleep(delay * (0.5 + self._rand.random()))
            delay = min(delay * 2, RETRY[1])

    async def compact(self, revision: int) -> None:
        request = self._pb.CompactionRequest(revision=revision)
        try:
            await self._send(lambda kv: kv.Compact(request, timeout=TIMEOUT), revision, read=True)
        except Compacted:
            return

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    async def _swap(self, key: str, expected: int, operation: Any) -> int:
        compare = self._pb.Compare(
            key=self._key(key), target=_MOD, result=_EQUAL, mod_revision=expected
        )
        read = self._pb.RequestOp(request_range=self._pb.RangeRequest(key=self._key(key)))
        request = self._pb.TxnRequest(compare=[compare], success=[operation], failure=[read])
        response = await self._send(lambda kv: kv.Txn(request, timeout=TIMEOUT))
        if response.succeeded:
            return int(response.header.revision)
        found = response.responses[0].response_range.kvs
        current = self._record(found[0]) if found else None
        if not expected and current is not None:
            raise KeyExists(current)
        raise Conflict(key, current)

    async def _range(self, request: Any, revision: int = 0) -> Any:
        return await self._send(lambda kv: kv.Range(request, timeout=TIMEOUT), revision, read=True)

    async def _send(
        self, call: Callable[[Any], Awaitable[T]], revision: int = 0, *, read: bool = False
    ) -> T:
        """Ask the endpoint that answered last; then the others, where that is safe."""
        for attempt in range(len(self._kv)):
            at = self._at
            try:
                return await call(self._kv[at])
            except grpc.aio.AioRpcError as error:
                code, details = error.code(), error.details() or ""
                if code is grpc.StatusCode.OUT_OF_RANGE and "compacted" in details:
                    raise Compacted(revision + 1) from error
                if code is grpc.StatusCode.OUT_OF_RANGE:
                    raise FutureRevision(await self.revision()) from error
                if "too large" in details or "larger than max" in details:
                    raise TooLarge(details) from error  # etcd's own limit, or its gRPC's above it
                if self._at == at:
                    self._at = (at + 1) % len(self._kv)
                last = attempt == len(self._kv) - 1
                if last or not (read or details.startswith(NOT_SENT)):
                    raise Unavailable(f"etcd: {code.name}: {details}") from error
        raise Unavailable("etcd: no endpoint")

    def _put(self, key: str, value: bytes) -> Any:
        request = self._pb.PutRequest(key=self._key(key), value=value)
        return self._pb.RequestOp(request_put=request)

    def _watch_request(self, prefix: str, reached: int) -> Any:
        create = self._pb.WatchCreateRequest(
            key=self._key(prefix),
            range_end=_prefix_end(self._key(prefix)),
            start_revision=reached + 1,
            prev_kv=True,
        )
        return self._pb.WatchRequest(create_request=create)

    def _key(self, key: str) -> bytes:
        return (self._prefix + key).encode()

    def _name(self, key: bytes) -> str:
        return key.decode().removeprefix(self._prefix)

    def _record(self, kv: Any) -> Record:
        return Record(self._name(kv.key), kv.value, kv.mod_revision, kv.create_revision)

    def _event(self, event: Any) -> Event:
        kv = event.kv
        # A message that was not sent is empty, and a key never is.
        previous = event.prev_kv.value if event.prev_kv.key else None
        if event.type == _DELETE:
            return Event(EventType.DELETED, self._name(kv.key), kv.mod_revision, None, previous)
        created = kv.create_revision == kv.mod_revision
        kind = EventType.CREATED if created else EventType.UPDATED
        return Event(kind, self._name(kv.key), kv.mod_revision, kv.value, previous)


# The numbers of the enums: Compare.CompareTarget, Compare.CompareResult, Event.EventType.
_MOD = 2
_EQUAL = 0
_DELETE = 1


def _prefix_end(prefix: bytes) -> bytes:
    """The first key after all that start with a prefix; NUL means to the end of all keys."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b"\0"


def _credentials(
    cafile: Path | None, certfile: Path | None, keyfile: Path | None
) -> grpc.ChannelCredentials | None:
    if not (cafile or certfile):
        return None
    read = [path.read_bytes() if path else None for path in (cafile, keyfile, certfile)]
    return grpc.ssl_channel_credentials(*read)


def _channel(endpoint: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    scheme, _, address = endpoint.rpartition("://")
    if scheme == "https" or (credentials and scheme != "http"):
        secure = credentials or grpc.ssl_channel_credentials()
        return grpc.aio.secure_channel(address, secure, options=OPTIONS)
    return grpc.aio.insecure_channel(address, options=OPTIONS)
