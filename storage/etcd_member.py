"""The connections to one member of an etcd cluster, as one set of credentials opens them."""

from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from storage.etcd_stream import EtcdStream

# A member that no longer hears from a leader refuses at once, before it does anything.
WITH_LEADER = grpc.aio.Metadata(("hasleader", "true"))
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


class EtcdMember:
    """`kv` and `maintenance` are its stubs; watches have a connection of their own."""

    def __init__(
        self, endpoint: str, credentials: grpc.ChannelCredentials | None, stubs: Any
    ) -> None:
        self.endpoint = endpoint
        self._channels = [_channel(endpoint, credentials), _channel(endpoint, credentials, STREAM)]
        unary, streaming = self._channels
        self.kv = stubs.KVStub(unary)
        self.maintenance = stubs.MaintenanceStub(unary)
        self._watch = stubs.WatchStub(streaming)
        self._streams: set[EtcdStream] = set()

    def watch(self, *, marker: bytes, trusted: bool) -> EtcdStream:
        """A stream for a watch. It ends when the member loses its leader."""
        call = self._watch.Watch(metadata=WITH_LEADER)
        stream = EtcdStream(call, marker=marker, trusted=trusted, closed=self._streams.discard)
        self._streams.add(stream)
        return stream

    async def takes_us(self, asking: Any, *, seconds: float) -> bool:
        """Whether it answers at all, be it with a refusal."""
        try:
            await self.maintenance.Status(asking, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            return error.code() not in SILENT
        return True

    async def leave(self, *, seconds: float) -> None:
        """Send its watches elsewhere, and close when its calls are over; after a time anyway."""
        for stream in tuple(self._streams):
            stream.move()
        await self._close(seconds)

    async def close(self) -> None:
        await self._close(None)

    async def _close(self, grace: float | None) -> None:
        for channel in self._channels:
            await channel.close(grace)


def _channel(
    endpoint: str, credentials: grpc.ChannelCredentials | None, more: Options = ()
) -> grpc.aio.Channel:
    options = (*OPTIONS, *more)
    scheme, _, address = endpoint.rpartition("://")
    if scheme == "https" or (credentials and scheme != "http"):
        secure = credentials or grpc.ssl_channel_credentials()
        return grpc.aio.secure_channel(address, secure, options=options)
    return grpc.aio.insecure_channel(address, options=options)
