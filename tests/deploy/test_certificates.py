"""The script's certificates do: etcd and the server start with the flags of the manifests."""

import asyncio
import base64
import json
import os
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.deploy.rendering import Object, by_name, container, of_kind
from tests.lab.processes import Daemon, free_port
from tests.storage.newer_etcd import NEWER

SERVICE = "networkpolicys.networkpolicys.svc"


def moved(words: list[str], folders: dict[str, Path]) -> list[str]:
    """The same words, with files where they are here."""
    for there, here in folders.items():
        words = [word.replace(there, str(here)) for word in words]
    return words


def mounted(folder: Path, objects: list[Object], name: str) -> dict[str, Path]:
    """The secrets of a container as files, by where it has them."""
    stored = {key[2]: obj["data"] for key, obj in by_name(objects).items() if key[0] == "Secret"}
    volumes = {
        volume["name"]: volume.get("secret", {}).get("secretName")
        for workload in of_kind(objects, "Deployment", "StatefulSet")
        for volume in workload["spec"]["template"]["spec"]["volumes"]
    }
    found = {}
    for mount in container(objects, name)["volumeMounts"]:
        if secret := volumes.get(mount["name"]):
            place = folder / secret
            place.mkdir()
            for file, content in stored[secret].items():
                (place / file).write_bytes(base64.b64decode(content))
            found[mount["mountPath"]] = place
    return found


@pytest.fixture(scope="module")
def etcd(
    variants: dict[str, list[Object]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """One member, with what the manifests pass but its addresses; its endpoint."""
    folder = tmp_path_factory.mktemp("etcd")
    objects = variants["secrets"]
    words = moved(container(objects, "etcd")["command"], mounted(folder, objects, "etcd"))
    client, peer = (f"https://127.0.0.1:{free_port()}" for _ in range(2))
    mine = {
        "--name": "one",
        "--data-dir": str(folder / "data"),
        "--listen-client-urls": client,
        "--advertise-client-urls": client,
        "--listen-peer-urls": peer,
        "--initial-advertise-peer-urls": peer,
        "--initial-cluster": f"one={peer}",
        "--listen-metrics-urls": f"http://127.0.0.1:{free_port()}",
    }
    flags = dict(word.split("=", 1) for word in words[1:])
    command = [str(NEWER or "etcd"), *(f"{k}={v}" for k, v in (flags | mine).items())]
    environment = {**os.environ, "ETCD_UNSUPPORTED_ARCH": "arm64"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    yield client
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=15)


@pytest.fixture
async def server(
    etcd: str, variants: dict[str, list[Object]], tmp_path: Path
) -> AsyncIterator[tuple[Daemon, str]]:
    """The server with the flags of the Deployment; there is no cluster behind it."""
    objects = variants["secrets"]
    files = mounted(tmp_path, objects, "apiserver")
    words = moved(container(objects, "apiserver")["args"], files)
    port = free_port()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "there",
        "contexts": [{"name": "there", "context": {"cluster": "there", "user": "me"}}],
        "clusters": [{"name": "there", "cluster": {"server": f"https://127.0.0.1:{free_port()}"}}],
        "users": [{"name": "me", "user": {"token": "none"}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    started = Daemon(
        "apiserver.main",
        [
            *words,
            *("--secure-port", str(port), "--bind-address", "127.0.0.1"),
            *("--etcd-servers", etcd, "--kubeconfig", str(tmp_path / "kubeconfig")),
            *("--shutdown-delay-duration", "0s"),
        ],
        tmp_path / "log",
    )
    await started.start()
    yield started, f"https://127.0.0.1:{port}"
    await started.stop()


async def test_the_server_serves_as_the_service_and_reaches_etcd(
    server: tuple[Daemon, str], variants: dict[str, list[Object]]
) -> None:
    process, url = server
    api = by_name(variants["secrets"])["APIService", "", "v1alpha1.net.alpha.kubernetes.io"]
    bundle = base64.b64decode(api["spec"]["caBundle"]).decode()
    probe = container(variants["secrets"], "apiserver")["livenessProbe"]["httpGet"]
    assert probe["scheme"] == "HTTPS"
    # As the aggregator: by the address of a pod, with the name of the service.
    named = {"sni_hostname": SERVICE}
    async with (
        httpx.AsyncClient(verify=ssl.create_default_context(cadata=bundle)) as http,
        asyncio.timeout(20),
    ):
        while True:
            assert process.running, process.log.read_text()[-3000:]
            try:
                answer = await http.get(url + probe["path"], extensions=named)
                ready = (await http.get(f"{url}/readyz?verbose", extensions=named)).text
                if "[+]etcd ok" in ready:
                    break
            except httpx.ConnectError as error:
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise
            await asyncio.sleep(0.05)
    assert answer.status_code == 200


def openssl(*words: str | Path) -> str:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_the_serving_authority_does_not_open_the_store(certificates: Path) -> None:
    for authority, ok in (("serving-ca", True), ("etcd-ca", False)):
        checked = openssl(
            *("verify", "-CAfile", certificates / f"{authority}.crt"),
            certificates / "serving.crt",
        )
        assert checked.strip().endswith("OK") is ok
    wrong = openssl(
        *("verify", "-purpose", "sslserver", "-CAfile", certificates / "etcd-ca.crt"),
        certificates / "etcd-client.crt",
    )
    assert "unsuitable certificate purpose" in wrong


def test_members_are_certified_by_the_names_that_they_are_looked_up_by(
    certificates: Path,
) -> None:
    shown = openssl("x509", "-in", certificates / "etcd.crt", "-noout", "-ext", "subjectAltName")
    for member in range(3):
        name = f"networkpolicys-etcd-{member}.networkpolicys-etcd.networkpolicys.svc"
        assert f"DNS:{name}" in shown


def test_keys_are_read_by_nobody_else_and_authorities_stay(certificates: Path) -> None:
    assert {file.stat().st_mode & 0o077 for file in certificates.glob("*.key")} == {0}
    before = {
        name: (certificates / name).read_bytes() for name in ("serving-ca.crt", "serving.crt")
    }
    subprocess.run([certificates.parent / "make.sh"], check=True, capture_output=True)
    assert (certificates / "serving-ca.crt").read_bytes() == before["serving-ca.crt"]
    assert (certificates / "serving.crt").read_bytes() != before["serving.crt"]
