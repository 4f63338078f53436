"""Kubeconfigs, service accounts and flags; what is wrong with them is said in one line."""

import asyncio
import base64
import json
import os
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import trustme
from hypothesis import example, given
from hypothesis import strategies as st

from enforcer import fetch, refusal
from enforcer.access import Access, BadAccess, from_kubeconfig, from_url, in_cluster
from enforcer.model import NAMESPACES, PODS, POLICIES
from enforcer.reflector import Apply, Replace
from enforcer.settings import Settings, settings

AUTHORITY = trustme.CA()
CLIENT = AUTHORITY.issue_cert("client.example.com", common_name="one")
CHAIN = b"".join(pem.bytes() for pem in CLIENT.cert_chain_pems)
KEY = CLIENT.private_key_pem.bytes()


def items(output: Replace | Apply) -> tuple[object, ...]:
    assert isinstance(output, Replace)
    return output.items


def config(folder: Path, *, cluster: Any = None, user: Any = None, **fields: Any) -> Path:
    """A kubeconfig that is right but for what is given."""
    made = {
        "kind": "Config",
        "current-context": "there",
        "contexts": [{"name": "there", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://api:6443/"} | (cluster or {})}],
        "users": [{"name": "u", "user": {"token": "confidential"} if user is None else user}],
        **fields,
    }
    path = folder / "config"
    path.write_text(json.dumps(made))
    return path


def test_files_stand_beside_the_kubeconfig_and_are_read_each_time(tmp_path: Path) -> None:
    for name, content in (("ca", AUTHORITY.cert_pem.bytes()), ("crt", CHAIN), ("key", KEY)):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "token").write_text("first\n")
    path = config(
        tmp_path,
        cluster={"certificate-authority": "ca", "tls-server-name": "kubernetes"},
        user={"tokenFile": "token", "client-certificate": "crt", "client-key": "key"},
    )
    access = from_kubeconfig(path)
    assert (access.server, access.server_name) == ("https://api:6443", "kubernetes")
    assert (access.token, access.certificate, access.key) == ("first", CHAIN, KEY)
    access.context()
    (tmp_path / "token").write_text("second\n")
    again = from_kubeconfig(path)
    assert again.token == "second"
    assert again.connection == access.connection
    (tmp_path / "ca").write_bytes(trustme.CA().cert_pem.bytes())
    assert from_kubeconfig(path).connection != access.connection


def test_what_stands_in_the_kubeconfig_counts_as_well(tmp_path: Path) -> None:
    data = {
        "client-certificate-data": base64.b64encode(CHAIN).decode(),
        "client-key-data": base64.b64encode(KEY).decode(),
    }
    access = from_kubeconfig(config(tmp_path, user=data))
    assert (access.certificate, access.key, access.token) == (CHAIN, KEY, "")
    access.context()


def test_secrets_are_in_no_representation(tmp_path: Path) -> None:
    assert "confidential" not in repr(from_kubeconfig(config(tmp_path)))


def broken(folder: Path, what: str) -> Path:
    """A kubeconfig with one thing wrong."""
    path = folder / "config"
    match what:
        case "no yaml":
            path.write_text("a: [}")
        case "a list":
            path.write_text("[]")
        case "no context":
            config(folder, **{"current-context": ""})
        case "another context":
            config(folder, **{"current-context": "here"})
        case "no users":
            config(folder, users=None)
        case "no scheme":
            config(folder, cluster={"server": "api:6443"})
        case "a bad port":
            config(folder, cluster={"server": "https://api:x"})
        case "a proxy":
            config(folder, cluster={"proxy-url": "http://p"})
        case "a plugin":
            config(folder, user={"exec": {"command": "aws"}})
        case "half a pair":
            config(folder, user={"client-key-data": base64.b64encode(KEY).decode()})
        case "no base64":
            config(folder, cluster={"certificate-authority-data": "?"})
        case "no file":
            config(folder, cluster={"certificate-authority": "nowhere.pem"})
        case "no token file":
            config(folder, user={"tokenFile": "nowhere"})
        case "an empty token":
            (folder / "token").write_text("\n")
            config(folder, user={"tokenFile": "token"})
        case "a token of two lines":
            config(folder, user={"token": "a\nb"})
        case "no certificate":
            (folder / "ca").write_text("nothing")
            config(folder, cluster={"certificate-authority": "ca"})
        case "an empty authority":
            (folder / "ca").write_text("")
            config(folder, cluster={"certificate-authority": "ca"})
        case "a strange key":
            other = AUTHORITY.issue_cert("other").private_key_pem.bytes()
            pair = {"client-certificate-data": CHAIN, "client-key-data": other}
            config(folder, user={k: base64.b64encode(v).decode() for k, v in pair.items()})
        case "an authority and none":
            (folder / "ca").write_bytes(AUTHORITY.cert_pem.bytes())
            both = {"certificate-authority": "ca", "insecure-skip-tls-verify": True}
            config(folder, cluster=both)
    return path


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nothing", "--kubeconfig {}: No such file or directory; name a kubeconfig file"),
        ("no yaml", "--kubeconfig {}: it is no YAML: line 1: "),
        ("a list", "--kubeconfig {}: it is no kubeconfig, which begins with kind: Config"),
        ("no context", "{}: current-context: '' is no text; it has to be given"),
        ("another context", "{}: contexts: there is no 'here'; there is 'there'"),
        ("no users", "{}: users: there is no 'u'; there is none"),
        ("no scheme", "{}: clusters: server: 'api:6443' is no URL of a server; write https://"),
        ("a bad port", "{}: clusters: server: 'https://api:x' is no URL: "),
        ("a proxy", "{}: clusters: proxy-url is not supported; name a server that is reached"),
        ("a plugin", "{}: users: exec is not supported; use token, tokenFile, or client-cert"),
        ("half a pair", "{}: users: client-certificate and client-key go together; name both"),
        ("no base64", "{}: clusters: certificate-authority-data: it is no base64"),
        ("no file", "{}: clusters: certificate-authority: {}/nowhere.pem: No such file"),
        ("no token file", "{}: users: tokenFile: {}/nowhere: No such file"),
        ("an empty token", "{}: users: tokenFile: {}/token: it holds no token"),
        ("a token of two lines", "{}: users: token: it holds no token"),
        ("no certificate", "{}: certificate-authority: "),
        ("an empty authority", "{}: certificate-authority: it holds no certificate; it has to be"),
        ("a strange key", "{}: client-certificate and client-key: "),
        ("an authority and none", "{}: clusters: certificate-authority and insecure-skip-tls-ver"),
    ],
)
def test_what_is_wrong_with_a_kubeconfig(tmp_path: Path, what: str, said: str) -> None:
    path = broken(tmp_path, what)
    with pytest.raises(BadAccess) as raised:
        from_kubeconfig(path).context()
    message = str(raised.value)
    assert "\n" not in message
    assert message.replace(str(path), "{}").replace(str(tmp_path), "{}").startswith(said)


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(), st.lists(st.text()), st.just({"a": 1}),
    st.sampled_from(["https://a b", "https://[::1", "/dev/null", "\0", "ä", "https://a/\x7f"]),
)  # fmt: skip
PLACES = {
    "": ("contexts", "clusters", "users", "current-context"),
    "context": ("cluster", "user"),
    "cluster": ("server", "certificate-authority", "certificate-authority-data", "tls-server-name"),
    "user": ("token", "tokenFile", "client-certificate-data", "client-key-data", "client-key"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kubeconfigs")


@hypothesis.settings(deadline=None, max_examples=200)
@given(where=st.sampled_from([(of, key) for of, keys in PLACES.items() for key in keys]), junk=JUNK)
@example(where=("user", "tokenFile"), junk="of two\nlines")
async def test_nonsense_is_an_error_of_one_line(
    place: Path, where: tuple[str, str], junk: Any
) -> None:
    of, key = where
    made = json.loads(config(place).read_text())
    (made[f"{of}s"][0][of] if of else made)[key] = junk
    path = place / "config"
    path.write_text(json.dumps(made))
    said = str(path)
    try:
        await fetch.Connection(lambda: from_kubeconfig(path)).close()
    except BadAccess as error:
        said = str(error)
    assert str(path) in said
    assert "\n" not in said


def test_a_pod_has_an_account(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(AUTHORITY.cert_pem.bytes())
    place = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    with pytest.raises(BadAccess, match=r"service account: .*token: No such file"):
        in_cluster(place, folder=tmp_path)
    (tmp_path / "token").write_text("of the pod")
    with pytest.raises(BadAccess, match="it holds no token"):
        in_cluster(place, folder=tmp_path)
    (tmp_path / "token").write_text("of-the-pod")
    access = in_cluster(place, folder=tmp_path)
    assert (access.server, access.token) == ("https://[fd00::1]:6443", "of-the-pod")
    access.context()


def chosen(flags: dict[str, str], environ: dict[str, str], folder: Path) -> Settings:
    given = {**FLAGS, **flags}
    return settings(
        server=given["server"],
        kubeconfig=given["kubeconfig"],
        policy_server=given["policy_server"],
        policy_kubeconfig=given["policy_kubeconfig"],
        node_name=given["node_name"],
        environ=environ,
        host_name="Host",
        folder=folder,
    )


POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "NODE_NAME": "of-the-pod"}
FLAGS = dict.fromkeys(
    ("server", "kubeconfig", "policy_server", "policy_kubeconfig", "node_name"), ""
)


@pytest.mark.parametrize(
    ("flags", "environ", "node", "server"),
    [
        ({}, {}, "", "http://127.0.0.1:8080"),
        ({}, {"NODE_NAME": "ignored"}, "", "http://127.0.0.1:8080"),
        ({"server": "http://a"}, POD, "", "http://a"),
        ({"server": "http://a", "node_name": "n"}, POD, "n", "http://a"),
        ({}, POD, "of-the-pod", "https://10.0.0.1:443"),
        ({"node_name": "n"}, POD, "n", "https://10.0.0.1:443"),
        ({"kubeconfig": "yes"}, {}, "host", "https://api:6443"),
        ({"kubeconfig": "yes"}, POD, "of-the-pod", "https://api:6443"),
    ],
)
def test_whom_the_flags_mean(
    tmp_path: Path, flags: dict[str, str], environ: dict[str, str], node: str, server: str
) -> None:
    (tmp_path / "ca.crt").write_bytes(AUTHORITY.cert_pem.bytes())
    (tmp_path / "token").write_text("t")
    if "kubeconfig" in flags:
        flags = {**flags, "kubeconfig": str(config(tmp_path))}
    made = chosen(flags, environ, tmp_path)
    assert (made.node, made.cluster().server, made.policies) == (node, server, None)


def test_policies_may_come_from_elsewhere(tmp_path: Path) -> None:
    for flags, server in (
        ({"policy_server": "http://127.0.0.1:8080"}, "http://127.0.0.1:8080"),
        ({"policy_kubeconfig": str(config(tmp_path))}, "https://api:6443"),
    ):
        made = chosen(flags, POD, tmp_path)
        assert made.policies is not None
        assert made.policies().server == server


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"server": "http://a", "kubeconfig": "b"}, "--server http://a and --kubeconfig b: both"),
        ({"policy_server": "a", "policy_kubeconfig": "b"}, "--policy-server a and --policy-kube"),
        ({"node_name": "Node_1"}, "--node-name: 'Node_1' is no name of a node; give"),
    ],
)
def test_flags_that_cannot_be(tmp_path: Path, flags: dict[str, str], said: str) -> None:
    with pytest.raises(BadAccess) as raised:
        chosen(flags, POD, tmp_path)
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize(
    "url", ["a", "ftp://a", "http://", "http://a:b", "http://a/?b", "http://[a", "http://a b"]
)
def test_a_server_is_a_url(url: str) -> None:
    with pytest.raises(BadAccess, match="--server: "):
        from_url(url)


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        (PODS, 401, "401: why; the server does not accept the credentials of here"),
        (
            PODS,
            403,
            "403: why; the enforcer lacks a ClusterRoleBinding to a ClusterRole with verbs list"
            " and watch (watch was refused) on resource pods of apiGroup ''",
        ),
        (POLICIES, 403, "on resource networkpolicys of apiGroup 'net.alpha.kubernetes.io'"),
        (POLICIES, 503, "503: why; the APIService of net.alpha.kubernetes.io is missing or not"),
        (PODS, 503, "503: why"),
    ],
)
def test_a_refusal_says_what_helps(path: str, code: int, said: str) -> None:
    told = refusal.reason(path, "watch", code, " why\n", origin="here")
    assert said in told
    assert "\n" not in told
    assert path == POLICIES or code != 503 or told == said


Answer = Callable[[str, bytes], tuple[int, object]]


@asynccontextmanager
async def served(context: ssl.SSLContext, answer: Answer) -> AsyncIterator[str]:
    """An HTTPS server. It answers a list or watch, given the token and the client's DER."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readuntil(b"\r\n\r\n"):
            token = request.partition(b"Bearer ")[2].split(b"\r\n")[0].decode()
            peer = writer.get_extra_info("ssl_object").getpeercert(True) or b""
            code, body = answer(token, peer)
            content = json.dumps(body).encode()
            head = f"HTTP/1.1 {code} x\r\nContent-Length: {len(content)}\r\n\r\n"
            writer.write(head.encode() + content)
            await writer.drain()

    async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(quiet, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_a_client_certificate_and_a_token_are_taken_over_when_they_change(
    tmp_path: Path,
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    AUTHORITY.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    seen: list[tuple[str, bytes]] = []

    def answer(token: str, peer: bytes) -> tuple[int, object]:
        seen.append((token, peer))
        good = {"metadata": {"resourceVersion": "5"}, "items": []}
        return (200, good) if token == "good" else (401, {"message": "Unauthorized"})

    def renew(token: str) -> bytes:
        made = AUTHORITY.issue_cert("client.example.com")
        made.private_key_and_cert_chain_pem.write_to_path(tmp_path / "pair")
        (tmp_path / "token").write_text(token)
        return ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode())

    (tmp_path / "ca").write_bytes(AUTHORITY.cert_pem.bytes())
    async with served(context, answer) as url:
        first = renew("bad")
        path = config(
            tmp_path,
            cluster={"server": url, "certificate-authority": "ca"},
            user={"tokenFile": "token", "client-certificate": "pair", "client-key": "pair"},
        )
        connection = fetch.Connection(lambda: from_kubeconfig(path))
        heard: asyncio.Queue[Replace | Apply] = asyncio.Queue()
        task = asyncio.create_task(
            fetch.follow(connection, NAMESPACES, heard.put, rand=random.Random(1))
        )
        try:
            async with asyncio.timeout(10):
                while len(seen) < 2:
                    await asyncio.sleep(0.01)
                assert seen[-1] == ("bad", first)
                # For a moment there is half of what is needed: the last credentials stay.
                (tmp_path / "token").unlink()
                before = len(seen)
                while len(seen) < before + 2:
                    await asyncio.sleep(0.01)
                assert seen[-1] == ("bad", first)
                second = renew("good")
                assert items(await heard.get()) == ()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await connection.close()
    assert ("good", second) in seen


async def test_another_server_is_listed_anew() -> None:
    """Revisions of one mean nothing at the other."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)

    def of(revision: str) -> Answer:
        listed = {"metadata": {"resourceVersion": revision}, "items": [{"revision": revision}]}
        return lambda token, peer: (200, listed)

    async with served(context, of("5")) as one, served(context, of("3")) as two:
        servers = [one]

        def read() -> Access:
            pem = AUTHORITY.cert_pem.bytes()
            return Access(server=servers[-1], origin="here", authority=pem)

        connection = fetch.Connection(read)
        heard: asyncio.Queue[Replace | Apply] = asyncio.Queue()
        task = asyncio.create_task(fetch.follow(connection, PODS, heard.put, rand=random.Random(1)))
        try:
            async with asyncio.timeout(10):
                assert items(await heard.get()) == ({"revision": "5"},)
                servers.append(two)
                assert items(await heard.get()) == ({"revision": "3"},)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await connection.close()


def test_certificates_need_no_folder_that_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    before = len(os.listdir("/proc/self/fd"))
    Access(server="https://a", origin="a", certificate=CHAIN, key=KEY).context()
    assert len(os.listdir("/proc/self/fd")) == before
