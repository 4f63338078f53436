"""etcd and the server start with the flags and the certificates that the manifests give them."""

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
from tests.deploy.test_permissions import may, resource_of
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


async def test_the_server_may_follow_all_that_it_follows(
    server: tuple[Daemon, str], variants: dict[str, list[Object]]
) -> None:
    process, _ = server
    # Without a cluster it complains about each, and serves meanwhile.
    failed = "cannot follow the cluster"
    paths = set[str]()
    async with asyncio.timeout(20):
        while not ({"namespaces", "configmaps"} <= {p.rpartition("/")[2] for p in paths}):
            await asyncio.sleep(0.05)
            paths = {str(line["path"]) for line in process.events(failed)}
        await process.until("serving")
    for path in paths:
        group, resource = resource_of(path)
        if resource != "configmaps":  # upstream's role in kube-system
            role = "networkpolicys:apiserver"
            for verb in ("get", "list", "watch"):
                assert may(variants["secrets"], role, verb, group, resource), path
