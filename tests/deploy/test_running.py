"""etcd and the server start with exactly what the manifests give them.

Three members and a server run in namespaces of their own, in which the secrets are where the pods
mount them and the members have the names that the cluster's DNS would give them. Just the address
on which a member listens is another: they share one host. There is no cluster behind the server.
"""

import base64
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deploy import dockerfile
from tests.deploy.rendering import ROOT, Object, by_name, container, of_kind
from tests.deploy.test_permissions import may, resource_of
from tests.storage.newer_etcd import NEWER

SERVICE = "networkpolicys.networkpolicys.svc"
# /var/run is a link.
ACCOUNT = "run/secrets/kubernetes.io/serviceaccount"
WORKLOADS = ("Deployment", "StatefulSet")

START = """
ip link set lo up
mkdir "$log/upper" "$log/work" "$log/root"
mount -t tmpfs tmp "$log/upper"
mkdir "$log/upper/upper" "$log/upper/work"
mount -t overlay -o "lowerdir=/,upperdir=$log/upper/upper,workdir=$log/upper/work" \\
  overlay "$log/root"
mount --rbind /proc "$log/root/proc"
mount --rbind /dev "$log/root/dev"
mkdir -p "$log/root$repository"
mount --rbind "$repository" "$log/root$repository"
cp -a "$log/files/." "$log/root/"
seen() { # seen NAME WORDS CURL-ARGUMENTS...: until the answer has these words
  name=$1 words=$2
  shift 2
  for attempt in $(seq 200); do
    curl -s "$@" >"$log/$name" 2>&1 || true
    if grep -qF "$words" "$log/$name"; then return; fi
    sleep 0.1
  done
  tail "$log"/*.log >&2
  exit 1
}
"""


def files(objects: list[Object]) -> dict[str, bytes]:
    """What the pods have mounted, and the certificate of nobody for their cluster."""
    secrets = {key[2]: obj["data"] for key, obj in by_name(objects).items() if key[0] == "Secret"}
    found = {f"{ACCOUNT}/token": b"none", f"{ACCOUNT}/namespace": b"networkpolicys"}
    for workload in of_kind(objects, *WORKLOADS):
        pod = workload["spec"]["template"]["spec"]
        volumes = {v["name"]: v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v}
        for mount in pod["containers"][0]["volumeMounts"]:
            for name, content in secrets.get(volumes.get(mount["name"], ""), {}).items():
                found[f"{mount['mountPath'].lstrip('/')}/{name}"] = base64.b64decode(content)
    found[f"{ACCOUNT}/ca.crt"] = found["etc/networkpolicys/serving/ca.crt"]
    return found


def members(objects: list[Object]) -> tuple[list[list[str]], str]:
    """The command of each member of etcd, and the file of hosts by which they know each other."""
    (etcd,) = of_kind(objects, "StatefulSet")
    domain = f"{etcd['spec']['serviceName']}.{etcd['metadata']['namespace']}.svc"
    commands, hosts = [], ["127.0.0.1 localhost"]
    for number in range(etcd["spec"]["replicas"]):
        name, address = f"{etcd['metadata']['name']}-{number}", f"127.0.0.{number + 1}"
        hosts.append(f"{address} {name}.{domain}")
        words = container(objects, "etcd")["command"]
        words = [w.replace("$(POD_NAME)", name).replace("0.0.0.0", address) for w in words]
        commands.append([w.replace("/var/lib/etcd/", f"/var/lib/{name}-") for w in words])
    return commands, "\n".join(hosts) + "\n"


def probe(of: Object, kind: str, host: str) -> str:
    """The URL that the kubelet would ask."""
    asked: dict[str, Any] = of[kind]["httpGet"]
    (port,) = (p["containerPort"] for p in of["ports"] if p["name"] == asked["port"])
    return f"{asked.get('scheme', 'HTTP').lower()}://{host}:{port}{asked['path']}"


@pytest.fixture(scope="module")
def ran(variants: dict[str, list[Object]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the logs and the answers are."""
    log = tmp_path_factory.mktemp("running")
    objects = variants["secrets"]
    commands, hosts = members(objects)
    for name, content in {**files(objects), "etc/hosts": hosts.encode()}.items():
        (log / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (log / "files" / name).write_bytes(content)
    api = by_name(objects)["APIService", "", "v1alpha1.net.alpha.kubernetes.io"]
    (log / "bundle.pem").write_bytes(base64.b64decode(api["spec"]["caBundle"]))
    etcd, server = container(objects, "etcd"), container(objects, "apiserver")

    script = ["set -eu", START]
    inside = ["chroot", str(log / "root"), "env", "-i", "-C", str(ROOT)]
    inside += [f"PATH={dockerfile.PATH}"]
    for number, command in enumerate(commands):
        here = [*inside, "ETCD_UNSUPPORTED_ARCH=arm64", str(NEWER or "etcd"), *command[1:]]
        script.append(f'{shlex.join(here)} >"$log/etcd-{number}.log" 2>&1 &')
    for number in range(len(commands)):
        ready = probe(etcd, "readinessProbe", f"127.0.0.{number + 1}")
        script.append(f'seen etcd-{number} \'"health":"true"\' {shlex.quote(ready)}')
    given = [f"{e['name']}={e['value']}" for e in server["env"]]
    given += ["KUBERNETES_SERVICE_HOST=127.0.0.1", "KUBERNETES_SERVICE_PORT=6443"]
    start = [*inside, *given, sys.executable, "-m", "apiserver.main"]
    script.append(f'{shlex.join([*start, *server["args"]])} >"$log/server.log" 2>&1 &')
    # As the aggregator: by the address of a pod, with the name of the service.
    curl = f'--cacert "$log/bundle.pem" --connect-to {SERVICE}::127.0.0.1:'
    ready = probe(server, "readinessProbe", SERVICE)
    script.append(f"seen readyz '[+]etcd ok' {curl} '{ready}?verbose'")
    script.append(f"seen livez ok {curl} {probe(server, 'livenessProbe', SERVICE)}")
    script.append('until grep -q configmaps "$log/server.log"; do sleep 0.1; done')
    done = subprocess.run(
        [*dockerfile.ISOLATED, "sh", "-c", "\n".join(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": dockerfile.PATH, "log": str(log), "repository": str(ROOT)},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return log


def test_three_members_make_one_etcd(ran: Path) -> None:
    for number in range(3):
        assert json.loads((ran / f"etcd-{number}").read_text())["health"] == "true"
        text = (ran / f"etcd-{number}.log").read_text()
        assert "rejected connection" not in text
    leaders = {
        found
        for number in range(3)
        for found in re.findall(r"elected leader (\w+)", (ran / f"etcd-{number}.log").read_text())
    }
    assert leaders


def test_the_server_serves_as_the_service_and_reaches_etcd(ran: Path) -> None:
    assert (ran / "livez").read_text() == "ok"
    assert "[+]etcd ok" in (ran / "readyz").read_text()


def test_the_server_may_follow_all_that_it_follows(
    ran: Path, variants: dict[str, list[Object]]
) -> None:
    # Without a cluster it complains about each.
    lines = [json.loads(line) for line in (ran / "server.log").read_text().splitlines()]
    paths = {line["path"] for line in lines if line["event"] == "cannot follow the cluster"}
    assert {"namespaces", "configmaps"} <= {path.rpartition("/")[2] for path in paths}
    for path in paths:
        group, resource = resource_of(path)
        if resource != "configmaps":  # of upstream's role in kube-system
            for verb in ("get", "list", "watch"):
                allowed = may(
                    variants["secrets"], "networkpolicys:apiserver", verb, group, resource
                )
                assert allowed, path
