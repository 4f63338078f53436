"""Who a request is taken to come from, straight at a server: rows AN-01 to AN-10."""

import asyncio
import datetime
import socket
import ssl
import warnings
from typing import Any

import httpx
import pytest
import trustme

from tests.cluster.conftest import POLICIES, ROOT, Replica, World, policy

DENIED = "/metrics"  # what nobody but masters may read: the refusal names the user


async def user_of(http: httpx.AsyncClient, headers: Any = ()) -> str:
    """The user that the server takes a client for; empty where it is none."""
    answer = await http.get(DENIED, headers=httpx.Headers(headers))
    if answer.status_code == 401:
        assert answer.json()["reason"] == answer.json()["message"] == "Unauthorized"
        return ""
    assert answer.status_code == 403, answer.text
    message: str = answer.json()["message"]
    return message.split('"')[1]


async def test_AN07_AZ01_H08_nobody_is_anonymous_and_may_only_probe(world: World) -> None:
    async with world.place.client(world.replica) as http:
        assert await user_of(http) == "system:anonymous"
        for path in ("/healthz", "/livez", "/readyz"):
            assert (await http.get(path)).text == "ok"
        for path in ("/", "/apis", ROOT, POLICIES, "/livez/ping", "/openapi/v2", "/nothing"):
            assert (await http.get(path)).status_code == 403, path
        assert (await http.put(POLICIES)).status_code == 403


async def test_AN06_a_certificate_of_the_clients_authority_is_a_user(world: World) -> None:
    made = world.place.certificates.user("bob")
    async with world.place.client(world.replica, made) as http:
        assert await user_of(http) == "bob"
    master = world.place.certificates.user("root", "system:masters")
    async with world.place.client(world.replica, master) as http:
        assert (await http.get(DENIED)).status_code == 200


async def test_AN05_headers_count_only_from_the_front_proxy(world: World) -> None:
    certificates = world.place.certificates
    alice = {"X-Remote-User": "alice", "X-Remote-Group": "system:masters"}
    for made, user in ((None, "system:anonymous"), (certificates.user("bob"), "bob")):
        async with world.place.client(world.replica, made) as http:
            assert await user_of(http, alice) == user
    # Its name alone, from the authority of clients, is a client's name.
    impostor = certificates.user("front-proxy-client")
    async with world.place.client(world.replica, impostor) as http:
        assert await user_of(http, alice) == "front-proxy-client"
    # Its authority alone, with another name, is nobody.
    stranger = certificates.user("other", authority=certificates.proxy)
    async with world.place.client(world.replica, stranger) as http:
        assert await user_of(http, alice) == ""


async def test_AN04_what_the_front_proxy_says(world: World) -> None:
    certificates = world.place.certificates
    proxy = certificates.user("front-proxy-client", authority=certificates.proxy)
    async with world.place.client(world.replica, proxy) as http:
        assert await user_of(http, {"X-Remote-User": "alice"}) == "alice"
        assert await user_of(http) == ""  # it names nobody
        several = [("X-Remote-User", "alice"), ("X-Remote-Group", "a"), ("X-Remote-Group", "b,c")]
        assert await user_of(http, several) == "alice"
        masters = [*several, ("x-remote-group", "system:masters")]
        assert (await http.get(DENIED, headers=masters)).status_code == 200
        # One header is one group, whatever is in it.
        joined = {"X-Remote-User": "alice", "X-Remote-Group": "a, system:masters"}
        assert await user_of(http, joined) == "alice"


async def test_AN08_AN09_a_token_is_asked_about_once(world: World) -> None:
    before = (await world.place.control("state"))["reviews"]["tokenreviews"]
    async with world.place.client(world.replica, token="bob-token") as http:
        assert await user_of(http) == "bob"
        assert await user_of(http) == "bob"
    async with world.place.client(world.replica, token="wrong") as http:
        assert await user_of(http) == ""
        assert await user_of(http) == ""
        for other in ("Basic d3Jvbmc6", "Bearer"):
            assert await user_of(http, {"Authorization": other}) == "system:anonymous"
    after = (await world.place.control("state"))["reviews"]["tokenreviews"]
    assert after - before == 2


@pytest.mark.parametrize("kind", ["expired", "stranger", "no client"])
async def test_AN01_a_certificate_that_does_not_hold_ends_the_handshake(
    world: World, kind: str
) -> None:
    certificates = world.place.certificates
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    made = {
        "expired": lambda: certificates.user("root", "system:masters", not_after=past),
        "stranger": lambda: certificates.user("root", "system:masters", authority=trustme.CA()),
        "no client": lambda: trustme.CA().issue_cert("root.example.com", common_name="root"),
    }[kind]()
    async with world.place.client(world.replica, made) as http:
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            await http.get(DENIED)


async def test_AN02_a_token_works_beside_headers_that_are_not_believed(world: World) -> None:
    async with world.place.client(world.replica, token="bob-token") as http:
        assert await user_of(http, {"X-Remote-User": "alice"}) == "bob"


async def test_names_of_the_front_proxy_are_utf_8(world: World) -> None:
    certificates = world.place.certificates
    proxy = certificates.user("front-proxy-client", authority=certificates.proxy)
    async with world.place.client(world.replica, proxy) as http:
        assert await user_of(http, [(b"X-Remote-User", "jürgen".encode())]) == "jürgen"
        assert await user_of(http, [(b"X-Remote-User", b"j\xfcrgen")]) == ""


async def test_nobody_is_impersonated_here(world: World) -> None:
    root = world.place.certificates.user("root", "system:masters")
    async with world.place.client(world.replica, root) as http:
        refused = await http.get(DENIED, headers={"Impersonate-User": "nobody"})
        assert refused.status_code == 403
        assert "ask through it" in refused.json()["message"]


async def test_a_session_of_tls_12_is_not_resumed(world: World) -> None:
    context = ssl.create_default_context(cafile=world.place.folder / "serving-ca.pem")
    world.place.certificates.user("bob").configure_cert(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def ask(session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None]:
        with (
            _connected(world.replica) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as line,
        ):
            try:
                line.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                heard = b""
                while part := line.recv(65536):
                    heard += part
            except OSError:
                heard = b""
            return heard, line.session

    first, session = await asyncio.to_thread(ask, None)
    assert b'User \\"bob\\"' in first
    again, _ = await asyncio.to_thread(ask, session)
    assert b"system:anonymous" not in again


async def test_MT08_what_prometheus_reads_of_it(world: World) -> None:
    async with world.place.client(world.replica, token="admin-token") as http:
        text = (await http.get("/metrics")).text
    for line in (
        'authentication_attempts_total{result="success"}',
        'authenticated_user_requests_total{username="admin"}',
        'apiserver_authorization_decisions_total{decision="allowed"}',
        'apiserver_delegated_authn_request_total{code="201"}',
        'authentication_token_cache_request_total{status="miss"}',
    ):
        assert line in text


async def test_old_tls_is_refused(world: World) -> None:
    context = ssl.create_default_context(cafile=world.place.folder / "serving-ca.pem")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # so that it is the server who refuses
    with pytest.raises(ssl.SSLError), _connected(world.replica) as plain:
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def _connected(replica: Replica) -> socket.socket:
    return socket.create_connection(("127.0.0.1", replica.port), timeout=10)


async def test_created_objects_name_no_credentials(world: World, name: str) -> None:
    async with world.place.client(world.replica, token="admin-token") as http:
        made = await http.post(POLICIES, json=policy(name))
        assert made.status_code == 201, made.text
        assert "token" not in made.text
        await http.delete(f"{POLICIES}/{name}")
