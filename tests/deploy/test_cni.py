"""The optional part that installs the CNI plugin and opens the socket which it waits at."""

import shutil
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from enforcer.cni import plugin as cni
from enforcer.cni import wait
from tests.deploy.conftest import KUSTOMIZE
from tests.deploy.rendering import (
    CHART,
    Object,
    by_name,
    charted,
    container,
    kustomized,
    of_kind,
    run,
)
from tests.deploy.test_manifests import RELEASES

OVERLAY = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../cert-manager]
components: [../../components/cni]
"""
CHOSEN = ("--set", "namespace.create=true", "--set", "enforcer.cni.enabled=true")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """What an overlay of an operator's own installs."""
    copy = tmp_path_factory.mktemp("deploy") / "kustomize"
    shutil.copytree(KUSTOMIZE, copy, ignore=shutil.ignore_patterns("made"))
    mine = copy / "overlays" / "mine"
    mine.mkdir()
    (mine / "kustomization.yaml").write_text(OVERLAY)
    return kustomized(mine)


@pytest.fixture
def pod(objects: list[Object]) -> Object:
    (agents,) = of_kind(objects, "DaemonSet")
    return dict(agents["spec"]["template"]["spec"])


def test_the_chart_installs_what_the_component_does(objects: list[Object]) -> None:
    assert by_name(charted(*CHOSEN)) == by_name(objects)


def test_it_changes_the_enforcer_alone(
    objects: list[Object], variants: dict[str, list[Object]]
) -> None:
    mine, others = by_name(objects), by_name(variants["cert-manager"])
    assert mine.keys() == others.keys()
    changed = [key for key in mine if mine[key] != others[key]]
    assert changed == [("DaemonSet", "networkpolicys", "networkpolicys-enforcer")]


@pytest.mark.parametrize("release", RELEASES)
def test_it_is_one_by_the_schemas(objects: list[Object], release: str) -> None:
    (agents,) = of_kind(objects, "DaemonSet")
    kubernetes_validate.validate(agents, release, strict=True)


def test_plugin_and_enforcer_mean_the_same_socket(objects: list[Object], pod: Object) -> None:
    enforcer = container(objects, "enforcer")
    (path,) = (e["value"] for e in enforcer["env"] if e["name"] == "NETPOL_WAIT_SOCKET")
    assert path == cni.SOCKET == str(wait.SOCKET)
    (mount,) = (m for m in enforcer["volumeMounts"] if m["name"] == "run")
    (volume,) = (v for v in pod["volumes"] if v["name"] == mount["name"])
    # The host and the container know it by one name, so that the path can be given to either.
    assert mount["mountPath"] == volume["hostPath"]["path"] == str(Path(path).parent)


def test_the_plugin_is_installed_without_any_right_but_to_its_folder(pod: Object) -> None:
    (installer,) = pod["initContainers"]
    (enforcer,) = pod["containers"]
    assert installer["image"] == enforcer["image"]
    assert installer["image"].endswith("/enforcer:0.1.0")
    context = installer["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    (mount,) = installer["volumeMounts"]
    assert [*installer["command"], *installer["args"]] == [
        "netpol-cni",
        "--install",
        mount["mountPath"],
    ]
    (volume,) = (v for v in pod["volumes"] if v["name"] == mount["name"])
    assert volume["hostPath"] == {"path": "/opt/cni/bin", "type": "DirectoryOrCreate"}


def test_the_folder_of_plugins_may_be_another() -> None:
    folder = "/var/lib/rancher/k3s/data/cni"
    (agents,) = of_kind(charted(*CHOSEN, "--set", f"enforcer.cni.binDir={folder}"), "DaemonSet")
    assert folder in str(agents["spec"]["template"]["spec"]["volumes"])
    for value in ("enforcer.cni.binDir=bin", "enforcer.cni.enable=true"):
        refused = run("helm", "template", "np", CHART, "--set", value, fails=True)
        assert "cni" in refused
