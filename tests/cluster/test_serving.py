"""The server's own certificate: made at the first start, read again when it changes."""

import asyncio
import os
import ssl
import sys
from pathlib import Path

import httpx
import pytest
import trustme

from tests.cluster.conftest import Place, Replica, World
from tests.lab.processes import Daemon, free_port


async def test_a_self_signed_certificate_at_the_first_start(tmp_path: Path) -> None:
    place, port = Place(tmp_path), free_port()
    await place.start()
    server = Daemon(
        "apiserver.main",
        [
            *("--bind-address", "127.0.0.1", "--secure-port", str(port)),
            *("--kubeconfig", str(tmp_path / "server.kubeconfig"), "--database-url", "memory:"),
            *("--cert-dir", str(tmp_path / "made"), "--log-format", "json"),
        ],
        tmp_path / "server.log",
    )
    seen = []
    try:
        for _ in range(2):
            await server.start()
            await server.until("serving")
            made = tmp_path / "made" / "apiserver.crt"
            seen.append(made.read_bytes())
            context = ssl.create_default_context(cafile=made)
            for host in ("127.0.0.1", "localhost"):
                url = f"https://{host}:{port}/livez"
                async with httpx.AsyncClient(verify=context, trust_env=False) as http:
                    assert (await http.get(url)).text == "ok"
            await server.kill()
        assert seen[0] == seen[1]
        key = tmp_path / "made" / "apiserver.key"
        assert key.stat().st_mode & 0o777 == 0o600
    finally:
        for process in (server, place.standin):
            if process is not None and process.running:
                await process.kill()


def served(replica: Replica) -> str:
    return ssl.get_server_certificate(("127.0.0.1", replica.port))


async def test_AN11_a_certificate_by_server_name(world: World) -> None:
    context = ssl.create_default_context(cafile=world.place.folder / "serving-ca.pem")
    world.place.certificates.user("bob").configure_cert(context)
    async with httpx.AsyncClient(verify=context, trust_env=False) as http:
        for name in ("a.example.com", "A.EXAMPLE.com", "127.0.0.1"):
            sni = {"extensions": {"sni_hostname": name}}
            answer = await http.get(f"{world.replica.url}/metrics", **sni)  # type: ignore[arg-type]
            assert 'User "bob"' in answer.json()["message"]
            assert "connection" not in answer.headers
    plain = ssl.create_default_context()
    plain.check_hostname, plain.verify_mode = False, ssl.CERT_NONE
    async with httpx.AsyncClient(verify=plain, trust_env=False) as http:
        assert (await http.get(f"{world.replica.url}/livez")).text == "ok"  # without a name


async def test_what_cannot_be_used_leaves_what_was(world: World) -> None:
    replica, folder = world.replica, world.place.folder
    before = await asyncio.to_thread(served, replica)
    good = (folder / "serving.crt").read_bytes()
    (folder / "serving.crt").write_text("half a certif")
    async with asyncio.timeout(10):
        while not replica.events("serving certificate cannot be read; what was before stays"):
            await asyncio.sleep(0.05)
    assert await asyncio.to_thread(served, replica) == before
    (folder / "serving.crt").write_bytes(good)
    world.place.certificates.renew_serving()
    async with asyncio.timeout(10):
        while await asyncio.to_thread(served, replica) == before:
            await asyncio.sleep(0.1)


async def test_a_new_authority_is_believed_at_once(world: World) -> None:
    """And a connection from before, on which no certificate of it was sent, has to come again."""
    certificates, folder = world.place.certificates, world.place.folder
    newer = trustme.CA()
    made = certificates.user("later", authority=newer)
    async with world.place.client(world.replica, certificates.user("bob")) as http:
        assert "connection" not in (await http.get("/livez")).headers
        both = certificates.clients.cert_pem.bytes() + newer.cert_pem.bytes()
        (folder / "client-ca.pem").write_bytes(both)
        await world.place.control("publish")
        async with asyncio.timeout(10):
            while (await http.get("/livez")).headers.get("connection") != "close":
                await asyncio.sleep(0.05)
        assert "connection" not in (await http.get("/livez")).headers
    async with world.place.client(world.replica, made) as http:
        assert 'User "later"' in (await http.get("/metrics")).json()["message"]
    certificates.clients.cert_pem.write_to_path(folder / "client-ca.pem")
    await world.place.control("publish")
    async with asyncio.timeout(10):
        while True:
            try:
                async with world.place.client(world.replica, made) as http:
                    await http.get("/metrics")
            except (httpx.TransportError, ssl.SSLError):
                break
            await asyncio.sleep(0.05)


async def test_an_authority_that_cannot_be_read_changes_nothing(world: World) -> None:
    certificates, folder = world.place.certificates, world.place.folder
    good = (folder / "client-ca.pem").read_bytes()
    odd = b"-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n"
    (folder / "client-ca.pem").write_bytes(good + odd)
    try:
        await world.place.control("publish")
        bad = "the ConfigMap kube-system/extension-apiserver-authentication is bad"
        await world.replica.until(bad)
        async with world.place.client(world.replica, certificates.user("bob")) as http:
            assert 'User "bob"' in (await http.get("/metrics")).json()["message"]
    finally:
        (folder / "client-ca.pem").write_bytes(good)
        await world.place.control("publish")


async def test_passwords_are_not_shown(tmp_path: Path) -> None:
    server = Daemon(
        "apiserver.main",
        ["--standalone", "--insecure-port", "0", "--database-url", "mysql://me:hunter2@a/b"],
        tmp_path / "log",
    )
    await server.start()
    assert await server.wait() == 1
    told = server.log.read_text()
    assert told.count("mysql://me:***@a/b") == 2  # among the settings, and in the error
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "this is no pod of a cluster: name a kubeconfig file with --kubeconfig"),
        (["--kubeconfig", "/nowhere"], "/nowhere: [Errno 2] No such file or directory"),
        (
            ["--kubeconfig", "KUBECONFIG", "--tls-sni-cert-key", "a,b"],
            "--tls-sni-cert-key: 'a,b' is no pair for server names",
        ),
        (["--tls-cert-file", "a"], "--tls-cert-file and --tls-private-key-file go together"),
        (["--standalone", "--bind-address", "0.0.0.0"], "only a loopback address is safe"),
    ],
)
async def test_what_is_wrong_at_the_start(world: World, arguments: list[str], says: str) -> None:
    config = str(world.place.folder / "server.kubeconfig")
    arguments = [config if word == "KUBECONFIG" else word for word in arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KUBERNETES_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "apiserver.main", "--database-url", "memory:", *arguments,
        stderr=asyncio.subprocess.PIPE, env=environment,
    )  # fmt: skip
    _, told = await process.communicate()
    assert process.returncode in (1, 2)
    assert says in told.decode()
