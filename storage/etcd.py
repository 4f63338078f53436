"""The shared engine: etcd 3.4 or newer, through etcd3's stubs over grpc.aio.

Its modification revision is the log's revision. Keys and values are laid out as kube-apiserver lays
out a custom resource's, so that both can use one cluster, one after the other.
"""

import asyncio
import contextlib
import random
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

from storage import retry
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
    Unavailable,
)
from storage.etcd_client import EtcdClient
from storage.etcd_credentials import CredentialFiles
from storage.etcd_stream import Ended, EtcdStream, Moved
from storage.etcd_watch import MARK, Progression, tells_progress
from storage.joined import Joined

POINT = 3.0  # seconds for one key: a member that does not answer is passed over
RANGE = 10.0  # seconds for a page of keys
WRITE = 8.0  # seconds; etcd gives up after 7
PAGE = 5_000  # keys a range brings at once
OWN = 1_000  # events of this process that are kept for its watches
OWN_BYTES = 8 << 20  # of their values
HIGHEST = (1 << 63) - 1
RETRY = (0.05, 1.0)  # seconds before a broken watch is opened again: first and longest


class EtcdStore:
    """See `storage.contract.Store`. `prefix` stands before every key (`--etcd-prefix`)."""

    name = "etcd"

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
        files = CredentialFiles(cafile, certfile, keyfile)
        self.files: Sequence[Path] = files.paths
        self._client = EtcdClient(endpoints, files=files)
        self._pb = self._client.pb
        self._prefix = f"/{path}" if (path := prefix.strip("/")) else ""
        self._rand = rand or random.Random()
        self._streams: set[EtcdStream] = set()
        # What was committed here of late, by revision.
        self._own: OrderedDict[int, Event] = OrderedDict()
        self._own_bytes = 0
        self._opened = 0
        self._newest = Joined(self._read_newest, name="etcd revision")

    async def revision(self) -> int:
        return await retry.reading(self._newest)

    async def get(self, key: str) -> tuple[Record | None, int]:
        response = await self._read(self._pb.RangeRequest(key=self._key(key)), POINT)
        record = self._record(response.kvs[0]) if response.kvs else None
        return record, response.header.revision

    async def list(
        self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0
    ) -> Page:
        if revision > HIGHEST:
            raise FutureRevision(await self.revision())
        low, end = self._key(prefix), _prefix_end(self._key(prefix))
        if after:
            low = max(low, self._key(after) + b"\0")
        records: list[Record] = []
        while True:
            wanted = min(PAGE, limit - len(records)) if limit else PAGE
            request = self._pb.RangeRequest(key=low, range_end=end, limit=wanted, revision=revision)
            try:
                response = await self._read(request, RANGE)
            except FutureRevision:
                raise FutureRevision(await self.revision()) from None
            revision = revision or response.header.revision
            records += [self._record(kv) for kv in response.kvs if not kv.key.endswith(MARK)]
            remaining = response.count - len(response.kvs)
            if not remaining or len(records) == limit:
                return Page(tuple(records), revision, remaining)
            low = response.kvs[-1].key + b"\0"

    async def create(self, key: str, value: bytes, *, given: Condition | None = None) -> int:
        wanted = [(self._key(key), 0)]
        if given is not None:
            wanted.append((self._key(given.key), given.revision))
        while True:
            response = await self._swap(wanted, value)
            if response.succeeded:
                return self._committed(key, response, value)
            # Each key that is asked for costs, so what stood in the way is only asked for here.
            if given is not None:
                needed, _ = await self.get(given.key)
                if needed is None or needed.revision != given.revision:
                    raise Conflict(given.key, needed)
            current, _ = await self.get(key)
            if current is not None:
                raise KeyExists(current)

    async def update(self, key: str, value: bytes, *, expected: int) -> int:
        return await self._change(key, expected, value)

    async def delete(self, key: str, *, expected: int) -> int:
        return await self._change(key, expected, None)

    async def watch(self, prefix: str, *, after: int) -> AsyncGenerator[Batch, None]:
        reached, delay = after, RETRY[0]
        while True:
            at = self._client.at
            try:
                async with contextlib.aclosing(self._watch_at(at, prefix, reached)) as batches:
                    async for batch in batches:
                        reached, delay = batch.revision, RETRY[0]
                        yield batch
            except Moved:
                continue
            except (Ended, Unavailable):
                pass
            self._client.leave(at)
            await asyncio.sleep(delay * (0.5 + self._rand.random()))
            delay = min(delay * 2, RETRY[1])

    async def _watch_at(self, at: int, prefix: str, after: int) -> AsyncGenerator[Batch, None]:
        """The batches of one stream, at one member. `Ended` or `Unavailable` where it has none."""
        trusted = tells_progress(await self._client.version(at, seconds=POINT))
        progression = Progression(
            after, prefix=prefix, own=self._own, decode=self._event, progress_trusted=trusted
        )
        marker = _marker(self._key(prefix))
        stream = self._client.watch(at, marker=marker, trusted=trusted)
        self._streams.add(stream)
        self._opened += 1
        try:
            await stream.write(self._watch_request(prefix, after))
            while True:
                response = await stream.next()
                if response is not None and response.canceled:
                    if response.compact_revision:
                        raise Compacted(response.compact_revision)
                    return
                if (batch := progression.take(response)) is not None:
                    yield batch
        finally:
            self._streams.discard(stream)
            await stream.close()

    async def tell_progress(self, *, force: bool = False) -> bool:
        streams = tuple(self._streams)
        asking = self._pb.WatchRequest(progress_request=self._pb.WatchProgressRequest())
        for stream in streams:
            if stream.trusted:
                await stream.write(asking)
        untrusted = {stream.marker for stream in streams if not stream.trusted}
        if force and untrusted:
            puts = [
                self._pb.RequestOp(request_put=self._pb.PutRequest(key=marker))
                for marker in untrusted
            ]
            await self._client.write(self._pb.TxnRequest(success=puts), seconds=WRITE)
        return bool(streams) and (force or not untrusted)

    async def compact(self, revision: int) -> None:
        try:
            await retry.reading(lambda: self._client.compact(revision, seconds=RANGE))
        except FutureRevision:
            raise FutureRevision(await self.revision()) from None
        except Compacted:
            return

    def renew(self) -> None:
        self._client.renew()

    def counted(self) -> Mapping[str, int]:
        return {"watch_streams": self._opened}

    async def close(self) -> None:
        await self._client.close()

    async def _change(self, key: str, expected: int, value: bytes | None) -> int:
        response = await self._swap([(self._key(key), expected)], value)
        if response.succeeded:
            return self._committed(key, response, value)
        found = response.responses[0].response_range.kvs
        raise Conflict(key, self._record(found[0]) if found else None)

    async def _swap(self, wanted: Sequence[tuple[bytes, int]], value: bytes | None) -> Any:
        """Put a value at the first key, or delete it, if all keys are at their revisions.

        A revision of 0 is that of no key. Where there has to be one, failure tells what there is.
        """
        request = self._pb.TxnRequest()
        for key, revision in wanted:
            request.compare.add(target=_MOD, key=key, mod_revision=revision)
        key, expected = wanted[0]
        if expected:
            request.failure.add().request_range.key = key
        if value is None:
            deletion = request.success.add().request_delete_range
            deletion.key, deletion.prev_kv = key, True
        else:
            put = request.success.add().request_put
            put.key, put.value, put.prev_kv = key, value, expected > 0
        return await retry.unsent(lambda: self._client.write(request, seconds=WRITE))

    def _committed(self, key: str, response: Any, value: bytes | None) -> int:
        """Its revision. The watches may tell it without waiting for etcd to."""
        revision, done = int(response.header.revision), response.responses[0]
        previous: bytes | None = None
        if value is None:
            kind, previous = EventType.DELETED, done.response_delete_range.prev_kvs[0].value
        elif done.response_put.HasField("prev_kv"):
            kind, previous = EventType.UPDATED, done.response_put.prev_kv.value
        else:
            kind = EventType.CREATED
        event = self._own[revision] = Event(kind, key, revision, value, previous)
        self._own_bytes += event.size
        while len(self._own) > OWN or self._own_bytes > OWN_BYTES:
            self._own_bytes -= self._own.popitem(last=False)[1].size
        for stream in self._streams:
            stream.nudge()
        return revision

    async def _read(self, request: Any, seconds: float) -> Any:
        return await retry.reading(lambda: self._client.read(request, seconds=seconds))

    async def _read_newest(self) -> int:
        request = self._pb.RangeRequest(key=b"\0", limit=1, keys_only=True)
        return int((await self._client.read(request, seconds=POINT)).header.revision)

    def _watch_request(self, prefix: str, reached: int) -> Any:
        create = self._pb.WatchCreateRequest(
            key=self._key(prefix),
            range_end=_marker(self._key(prefix)) + b"\0",
            start_revision=reached + 1,
            prev_kv=True,
            fragment=True,
        )
        return self._pb.WatchRequest(create_request=create)

    def _key(self, key: str) -> bytes:
        return (self._prefix + key).encode()

    def _name(self, key: bytes) -> str:
        return key[len(self._prefix.encode()) :].decode()

    def _record(self, kv: Any) -> Record:
        return Record(self._name(kv.key), kv.value, kv.mod_revision, kv.create_revision)

    def _event(self, event: Any) -> Event | None:
        """None where it only shows how far a watch is."""
        kv = event.kv
        if kv.key.endswith(MARK):
            return None
        # A message that was not sent is empty, and a key never is.
        previous = event.prev_kv.value if event.prev_kv.key else None
        if event.type == _DELETE:
            return Event(EventType.DELETED, self._name(kv.key), kv.mod_revision, None, previous)
        created = kv.create_revision == kv.mod_revision
        kind = EventType.CREATED if created else EventType.UPDATED
        return Event(kind, self._name(kv.key), kv.mod_revision, kv.value, previous)


# The numbers of the enums Compare.CompareTarget and Event.EventType.
_MOD = 2
_DELETE = 1


def _marker(prefix: bytes) -> bytes:
    """A key right behind those of a prefix, where no list of its objects finds it."""
    return _prefix_end(prefix) + MARK


def _prefix_end(prefix: bytes) -> bytes:
    """The first key after all that start with a prefix; NUL means to the end of all keys."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b"\0"
