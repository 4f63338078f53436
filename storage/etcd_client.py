"""The connections to the members of an etcd cluster, and which of them is asked.

A request goes to the member that answered last, and to the next when that fails. A write goes on
only where it is known to have had no effect.
"""

from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from storage import etcd_proto
from storage.contract import Compacted, FutureRevision, NotSent, TooLarge, Unavailable
from storage.etcd_stream import EtcdStream

# A member that no longer hears from a leader refuses at once, before it does anything.
WITH_LEADER = grpc.aio.Metadata(("hasleader", "true"))
NO_EFFECT = ("failed to connect to all addresses", "etcdserver: no leader")
SILENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
Options = Sequence[tuple[str, int]]
# Keepalive finds a member that is cut off. etcd allows a ping every 5 s.
OPTIONS: Options = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.min_reconnect_backoff_ms", 3_000),  # so long a connection may take
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
# A watch takes one message in a turn of the event loop. Where that is slower than they come, etcd
# must be made to wait soon: then it puts all that has come meanwhile into one message.
STREAM: Options = (("grpc.http2.bdp_probe", 0),)


class EtcdClient:
    """`pb` are the messages; `at` is the member that is asked, by its place among the endpoints."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        cafile: Path | None = None,
        certfile: Path | None = None,
        keyfile: Path | None = None,
    ) -> None:
        self.pb, stubs = etcd_proto.load()
        credentials = _credentials(cafile, certfile, keyfile)
        self._channels = [_channel(endpoint, credentials) for endpoint in endpoints]
        self._kv = [stubs.KVStub(channel) for channel in self._channels]
        self._streams = [_channel(endpoint, credentials, STREAM) for endpoint in endpoints]
        self._watch = [stubs.WatchStub(channel) for channel in self._streams]
        self._maintenance = [stubs.MaintenanceStub(channel) for channel in self._channels]
        self.at = 0

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
            status = await self._maintenance[at].Status(self.pb.StatusRequest(), timeout=seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() in SILENT:
                raise Unavailable(f"etcd: {error.details()}") from error
            return ""
        return str(status.version)

    def watch(self, at: int, *, marker: bytes, trusted: bool) -> EtcdStream:
        """A stream for a watch at a member. It ends when the member loses its leader."""
        call = self._watch[at].Watch(metadata=WITH_LEADER)
        return EtcdStream(call, marker=marker, trusted=trusted)

    def leave(self, at: int) -> None:
        """That member does not answer: ask the next, if nobody has moved on yet."""
        if self.at == at:
            self.at = (at + 1) % len(self._channels)

    async def close(self) -> None:
        for channel in (*self._channels, *self._streams):
            await channel.close()

    async def _send(
        self, name: str, request: Any, seconds: float, *, read: bool, revision: int = 0
    ) -> Any:
        for left in reversed(range(len(self._kv))):
            at = self.at
            try:
                call = getattr(self._kv[at], name)
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


def _credentials(
    cafile: Path | None, certfile: Path | None, keyfile: Path | None
) -> grpc.ChannelCredentials | None:
    if not (cafile or certfile):
        return None
    read = [path.read_bytes() if path else None for path in (cafile, keyfile, certfile)]
    return grpc.ssl_channel_credentials(*read)


def _channel(
    endpoint: str, credentials: grpc.ChannelCredentials | None, more: Options = ()
) -> grpc.aio.Channel:
    options = (*OPTIONS, *more)
    scheme, _, address = endpoint.rpartition("://")
    if scheme == "https" or (credentials and scheme != "http"):
        secure = credentials or grpc.ssl_channel_credentials()
        return grpc.aio.secure_channel(address, secure, options=options)
    return grpc.aio.insecure_channel(address, options=options)
