"""The connections to the members of an etcd cluster, and which of them is asked.

A request goes to the member that answered last, and to the next when that fails. A write goes on
only where it is known to have had no effect.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import grpc
import grpc.aio
import structlog

from storage import etcd_proto
from storage.contract import (
    Compacted,
    FutureRevision,
    NotSent,
    StorageError,
    TooLarge,
    Unavailable,
)
from storage.etcd_credentials import CredentialFiles
from storage.etcd_member import SILENT, WITH_LEADER, EtcdMember
from storage.etcd_stream import EtcdStream

NO_EFFECT = ("failed to connect to all addresses", "etcdserver: no leader")
PROBE = 0.5  # seconds between two looks whether a member takes new credentials
PROBE_TIMEOUT = 3.0  # seconds that it has for an answer
SAY_AFTER = 20  # looks, after which that is said
GRACE = 15.0  # seconds that calls with old credentials have to end: more than any may take

log = structlog.get_logger()


class EtcdClient:
    """`pb` are the messages; `at` is the member that is asked, by its place among the endpoints."""

    def __init__(self, endpoints: Sequence[str], *, files: CredentialFiles) -> None:
        """`OSError`, `StorageError` where the files cannot be used."""
        self.pb, self._stubs = etcd_proto.load()
        self._files = files
        try:
            credentials = files.read()
        except ValueError as error:
            raise StorageError(str(error)) from error
        self._members = [EtcdMember(place, credentials, self._stubs) for place in endpoints]
        self.at = 0
        self._moving: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def read(self, request: Any, *, seconds: float) -> Coroutine[Any, Any, Any]:
        """A range, linearizable. `Compacted`, `FutureRevision`, `Unavailable`."""
        return self._send("Range", request, seconds, read=True, revision=request.revision)

    def write(self, request: Any, *, seconds: float) -> Coroutine[Any, Any, Any]:
        """A transaction. `TooLarge`, `Unavailable`."""
        return self._send("Txn", request, seconds, read=False)

    async def compact(self, revision: int, *, seconds: float) -> None:
        """`Compacted` where that has been done, `FutureRevision`."""
        request = self.pb.CompactionRequest(revision=revision)
        await self._send("Compact", request, seconds, read=True, revision=revision)

    async def version(self, at: int, *, seconds: float) -> str:
        """The version of a member; empty where it does not say. `Unavailable` if it is silent."""
        try:
            asking = self.pb.StatusRequest()
            status = await self._members[at].maintenance.Status(asking, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() in SILENT:
                raise Unavailable(f"etcd: {error.details()}") from error
            return ""
        return str(status.version)

    def watch(self, at: int, *, marker: bytes, trusted: bool) -> EtcdStream:
        """A stream for a watch at a member. It ends when the member loses its leader."""
        return self._members[at].watch(marker=marker, trusted=trusted)

    def leave(self, at: int) -> None:
        """That member does not answer: ask the next, if nobody has moved on yet."""
        if self.at == at:
            self.at = (at + 1) % len(self._members)

    def renew(self) -> None:
        """Go over to what the files hold now, at each member as soon as that takes it.

        Until then it is asked with the credentials from before: it may know the new authority only
        after a restart. `OSError`, `ValueError`: then all stays as it is.
        """
        credentials = self._files.read()
        for task in self._moving:
            task.cancel()
        self._moving = [
            self._begin(self._move(at, credentials), "etcd credentials")
            for at in range(len(self._members))
        ]

    async def close(self) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for member in self._members:
            await member.close()

    async def _move(self, at: int, credentials: grpc.ChannelCredentials | None) -> None:
        old = self._members[at]
        fresh = EtcdMember(old.endpoint, credentials, self._stubs)
        looks = 0
        try:
            while not await fresh.takes_us(self.pb.StatusRequest(), seconds=PROBE_TIMEOUT):
                looks += 1
                if looks == SAY_AFTER:
                    log.warning(
                        "a member of etcd is away or refuses the new certificate; what was before"
                        " stays there until it takes that",
                        member=old.endpoint,
                    )
                await asyncio.sleep(PROBE)
        except asyncio.CancelledError:
            await fresh.close()
            raise
        self._members[at] = fresh
        log.info("a member of etcd has taken the new certificate", member=old.endpoint)
        self._begin(old.leave(seconds=GRACE), "old etcd connections")

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _send(
        self, name: str, request: Any, seconds: float, *, read: bool, revision: int = 0
    ) -> Any:
        for left in reversed(range(len(self._members))):
            at = self.at
            try:
                call = getattr(self._members[at].kv, name)
                return await call(request, timeout=seconds, metadata=WITH_LEADER)
            except grpc.aio.AioRpcError as error:
                details = error.details() or ""
                if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                    if "compacted" in details:
                        raise Compacted(revision + 1) from error
                    raise FutureRevision(revision - 1) from error
                if "too large" in details or "larger than max" in details:
                    raise TooLarge(details) from error  # etcd's own limit, or its gRPC's above it
                self.leave(at)
                void = details.startswith(NO_EFFECT)
                if not left or not (read or void):
                    kind = NotSent if void else Unavailable
                    raise kind(f"etcd: {error.code().name}: {details}") from error
        raise AssertionError("an etcd client has endpoints")
