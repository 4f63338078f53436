"""Requests that nobody honest sends, over real TLS: nobody gets in, nobody else is disturbed."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator

import httpx
import pytest
import trustme

from apiserver.server import HEAD_BYTES
from tests.cluster.conftest import POLICIES, ROOT, World, policy

SECRET = f"{ROOT}/namespaces/default/networkpolicys/secret"


class Line:
    """A connection on which anything can be said."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, world: World, certificate: trustme.LeafCert | None = None) -> "Line":
        context = ssl.create_default_context(cafile=world.place.folder / "serving-ca.pem")
        if certificate is not None:
            certificate.configure_cert(context)
        return cls(*await asyncio.open_connection("127.0.0.1", world.replica.port, ssl=context))

    async def say(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def hear(self, *, seconds: float = 10.0) -> bytes:
        """All that comes until the server hangs up, or is silent for a second after something."""
        heard = b""
        try:
            async with asyncio.timeout(seconds):
                while part := await asyncio.wait_for(
                    self._reader.read(65536), 1.0 if heard else seconds
                ):
                    heard += part
        except (TimeoutError, ConnectionError):
            pass
        return heard

    async def ended(self) -> bool:
        """Whether the server hangs up."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(10):
                while await self._reader.read(65536):
                    pass
        return True

    async def close(self) -> None:
        self._writer.transport.abort()


@pytest.fixture(scope="module")
async def secret(world: World) -> AsyncIterator[None]:
    async with world.place.client(world.replica, token="admin-token") as http:
        path = f"{ROOT}/namespaces/default/networkpolicys"
        made = {"metadata": {"name": "secret", "annotations": {"note": "TOP-SECRET"}}, "spec": {}}
        assert (await http.post(path, json=made)).status_code == 201
        yield
        await http.delete(SECRET)


HEADS = {
    "a user named in a header": b"X-Remote-User: admin\r\nX-Remote-Group: system:masters\r\n",
    "the same in odd spelling": b"x-REMOTE-user: admin\r\nX_Remote_Group: system:masters\r\n",
    "impersonation": b"Impersonate-User: admin\r\nImpersonate-Group: system:masters\r\n",
    "two credentials": b"Authorization: Bearer wrong\r\nAuthorization: Bearer admin-token\r\n",
    "a token in a list": b"Authorization: Basic eA==, Bearer admin-token\r\n",
    "another method in a header": b"X-HTTP-Method-Override: GET\r\n",
    "another path in a header": f"X-Original-URL: {SECRET}\r\nX-Rewrite-URL: {SECRET}\r\n".encode(),
    "a forwarded client": b"X-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\n",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("known", [False, True], ids=["nobody", "bob"])
@pytest.mark.usefixtures("secret")
async def test_headers_that_lie(world: World, head: bytes, *, known: bool) -> None:
    bob = world.place.certificates.user("bob") if known else None
    line = await Line.to(world, bob)
    await line.say(
        b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%s\r\n" % (SECRET.encode(), head)
    )
    heard = await line.hear()
    assert heard.split(b" ", 2)[1] in (b"401", b"403"), heard[:300]
    assert b"TOP-SECRET" not in heard
    await line.close()


TARGETS = {
    "an absolute URI": "https://127.0.0.1%s",
    "one with a user": "https://admin@127.0.0.1%s",
    "behind a probe": "/healthz/..%s",
    "behind an encoded probe": "/healthz%%2f..%s",
    "doubled slashes": "/%s",
    "a fragment": "/healthz#%s",
    "a query": "/healthz?path=%s",
    "parameters": "/healthz;%s",
    "a backslash": "/healthz\\..%s",
    "a null byte": "/healthz%%00%s",
    "a line break": "/healthz%%0d%%0a%s",
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.usefixtures("secret")
async def test_targets_that_lie(world: World, target: str) -> None:
    line = await Line.to(world)
    await line.say(
        f"GET {target % SECRET} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    )
    heard = await line.hear()
    assert b"TOP-SECRET" not in heard
    assert heard.split(b" ", 2)[1] in (b"200", b"400", b"403"), heard[:300]
    if heard.split(b" ", 2)[1] == b"200":
        assert heard.endswith(b"\r\n\r\nok")
    await line.close()


SMUGGLED = b"GET %s HTTP/1.1\r\nHost: a\r\nX-Remote-User: admin\r\n\r\n" % SECRET.encode()
BODIES = {
    "two lengths": b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n%s",
    "a length and chunks": b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s",
    "chunks in odd spelling": b"Content-Length: %d\r\nTransfer-Encoding : chunked\r\n\r\n%s",
    "a wrong length": b"Content-Length: 1%d\r\n\r\n%s",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.usefixtures("secret")
async def test_a_request_hidden_in_another(world: World, body: bytes) -> None:
    line = await Line.to(world)
    await line.say(b"POST /healthz HTTP/1.1\r\nHost: a\r\n" + body % (len(SMUGGLED), SMUGGLED))
    assert b"TOP-SECRET" not in await line.hear(seconds=3)
    await line.close()


async def test_what_is_too_large_is_refused_while_it_comes(world: World) -> None:
    line = await Line.to(world)
    await line.say(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Long: ")
    with contextlib.suppress(ConnectionError):
        for _ in range(2 * HEAD_BYTES // 65536):
            await line.say(b"a" * 65536)
    assert await line.ended()
    await line.close()
    root = world.place.certificates.user("root", "system:masters")
    async with world.place.client(world.replica, root) as http:
        large = await http.post(POLICIES, content=b" " * (4 << 20))
        assert large.status_code == 413

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(64):
                yield b" " * 65536

        assert (await http.post(POLICIES, content=chunks())).status_code == 413
        deep = await http.post(POLICIES, content=b"[" * 100_000)
        assert deep.status_code == 400


async def test_slow_and_silent_clients_stall_nobody(world: World) -> None:
    silent = [await Line.to(world) for _ in range(50)]
    slow = [await Line.to(world) for _ in range(50)]
    half_open = [await asyncio.open_connection("127.0.0.1", world.replica.port) for _ in range(50)]
    for line in slow:
        await line.say(b"POST /apis HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{")
    root = world.place.certificates.user("root", "system:masters")
    begun = time.monotonic()
    async with world.place.client(world.replica, root) as http:
        for number in range(20):
            name = f"unstalled-{number}"
            assert (await http.post(POLICIES, json=policy(name))).status_code == 201
            assert (await http.delete(f"{POLICIES}/{name}")).status_code == 200
    assert time.monotonic() - begun < 20
    for line in (*silent, *slow):
        await line.close()
    for _, writer in half_open:
        writer.transport.abort()


async def test_plain_http_and_garbage_are_no_requests(world: World) -> None:
    for data in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x00\x05", b"\0" * 1000):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.replica.port)
        writer.write(data)
        try:
            heard = await asyncio.wait_for(reader.read(1000), 2)
        except (TimeoutError, ConnectionError):
            heard = b""
        assert b"HTTP/1.1" not in heard
        writer.transport.abort()
    line = await Line.to(world)
    await line.say(b"\0\1\2 nonsense\r\n\r\n")
    assert (await line.hear()).startswith(b"HTTP/1.1 400")
    async with world.place.client(world.replica) as http:
        assert (await http.get("/livez")).status_code == 200


async def test_a_watch_needs_permission_over_a_websocket_too(world: World) -> None:
    path = f"{ROOT}/namespaces/default/networkpolicys?watch=1"
    for token, code in (("", b"403"), ("bob-token", b"403"), ("wrong", b"401")):
        line = await Line.to(world)
        credentials = f"Authorization: Bearer {token}\r\n" if token else ""
        await line.say(
            f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"X-Remote-User: admin\r\nX-Remote-Group: system:masters\r\n{credentials}\r\n".encode()
        )
        assert (await line.hear()).split(b" ", 2)[1] == code
        await line.close()


async def test_a_client_may_be_anyone_again_on_one_connection(world: World) -> None:
    """What one request was allowed says nothing about the next on the same connection."""
    context = ssl.create_default_context(cafile=world.place.folder / "serving-ca.pem")
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(
        base_url=world.replica.url, verify=context, trust_env=False, limits=limits
    ) as http:
        for token, code in (("admin-token", 200), ("bob-token", 403), ("", 403), ("wrong", 401)):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            assert (await http.get(POLICIES, headers=headers)).status_code == code
