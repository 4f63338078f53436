"""The variants of the manifests, each rendered once."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.rendering import DEPLOY, Object, kustomized

KUSTOMIZE = DEPLOY / "kustomize"


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the manifests in which the certificates have been made by the script."""
    copy = tmp_path_factory.mktemp("deploy") / "kustomize"
    shutil.copytree(KUSTOMIZE, copy, ignore=shutil.ignore_patterns("made"))
    script = copy / "secrets" / "make.sh"
    subprocess.run([script], check=True, capture_output=True)
    return copy


@pytest.fixture(scope="session")
def certificates(secrets: Path) -> Path:
    return secrets / "secrets" / "made"


@pytest.fixture(scope="session")
def variants(secrets: Path) -> dict[str, list[Object]]:
    return {
        "cert-manager": kustomized(KUSTOMIZE / "overlays" / "cert-manager"),
        "secrets": kustomized(secrets / "overlays" / "secrets"),
        "external-etcd": kustomized(KUSTOMIZE / "overlays" / "external-etcd"),
        "monitoring": kustomized(DEPLOY / "monitoring"),
    }


@pytest.fixture(params=["cert-manager", "secrets", "external-etcd"])
def objects(request: pytest.FixtureRequest, variants: dict[str, list[Object]]) -> list[Object]:
    """What one of the variants installs."""
    return variants[request.param]
