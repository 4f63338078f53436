"""The real kubectl and curl, as people use them, on SQLite and on etcd."""

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import Kubectl
from tests.lab.processes import Server

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="there is no kubectl here")

DOCS = Path(__file__).resolve().parents[2] / "docs"
INPUTS = Path(__file__).resolve().parents[3] / "shared" / "inputs"


async def test_the_walk_through_of_the_post(kubectl: Kubectl, server: Server) -> None:
    assert "created" in await kubectl("create", "-f", str(DOCS / "third-party-res-def.yaml"))
    assert "created" in await kubectl("create", "namespace", "tenant-a")
    note = "net.alpha.kubernetes.io/network-isolation=on"
    assert "annotated" in await kubectl("annotate", "namespace", "tenant-a", note)
    assert "on" in await kubectl("get", "namespace", "tenant-a", "--no-headers")
    url = f"{server.url}/apis/net.alpha.kubernetes.io/v1alpha1/namespaces/tenant-a/networkpolicys/"
    process = await asyncio.create_subprocess_exec(
        "curl", "-sf", "-X", "POST", url, "-d", f"@{DOCS / 'pol1.json'}",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert json.loads(output)["metadata"]["name"] == "pol1"
    told = await kubectl("get", "networkpolicys", "--namespace", "tenant-a", "-o", "wide")
    assert "pol1   segment=backend   segment=frontend   80/TCP" in told
    off = "net.alpha.kubernetes.io/network-isolation=off"
    await kubectl("annotate", "--overwrite", "namespace", "tenant-a", off)
    await kubectl("delete", "thirdpartyresources", "--all")


@pytest.mark.skipif(not INPUTS.is_dir(), reason="the files of 2016 are not beside the project")
async def test_the_other_files_of_2016_are_accepted_or_refused(kubectl: Kubectl) -> None:
    for name in ("calico-k8s-policy-agent.NetworkPolicy", "k8s-docs-admin.third-party-resource"):
        file = str(INPUTS / "third-party-resources" / f"{name}.yaml")
        assert "created" in await kubectl("create", "-f", file)
        assert "deleted" in await kubectl("delete", "-f", file)
    demo = INPUTS / "romana-demo"
    for namespace in ("56a68b6.isolated-namespace", "6bc6073.namespace-tenant-a"):
        await kubectl("delete", "namespace", "tenant-a", "--ignore-not-found")
        assert "created" in await kubectl("create", "-f", str(demo / f"{namespace}.yaml"))
    for pod in ("6bc6073.pod-backend", "6bc6073.pod-frontend"):
        assert "created" in await kubectl("create", "-f", str(demo / f"{pod}.yaml"))
    await kubectl("delete", "namespace", "tenant-a")
    for other in (demo / "6bc6073.example-controller.yaml", *INPUTS.glob("calico-example/*-[rs]*")):
        if "manifest" in other.name or "controller" in other.name:
            refused = await kubectl("create", "-f", str(other), fails=True)
            assert "could not find the requested resource" in refused or "no matches" in refused


async def test_every_command_that_people_use(kubectl: Kubectl, tmp_path: Path) -> None:
    manifest = tmp_path / "policy.yaml"
    manifest.write_text(
        "apiVersion: net.alpha.kubernetes.io/v1alpha1\nkind: NetworkPolicy\n"
        "metadata: {name: web}\n"
        "spec:\n  podSelector: {app: web}\n  allowIncoming:\n    toPorts: [{port: 80}]\n"
    )
    file = ("-f", str(manifest))
    assert "created" in await kubectl("apply", *file)
    assert "unchanged" in await kubectl("apply", *file)
    assert await kubectl("diff", *file) == ""
    manifest.write_text(manifest.read_text().replace("80", "81"))
    assert "81" in await kubectl("diff", *file, fails=True)
    assert "configured" in await kubectl("apply", *file)
    assert "81/TCP" in await kubectl("get", "anp", "web")
    assert "port: 81" in await kubectl("get", "networkpolicy.net.alpha.kubernetes.io/web", "-oyaml")
    assert "Port:  81" in await kubectl("describe", "networkpolicys", "web")
    assert "labeled" in await kubectl("label", "anp", "web", "a=b")
    assert "annotated" in await kubectl("annotate", "anp", "web", "c=d")
    assert "edited" in await kubectl("edit", "anp", "web", editor="sed -i 's/port: 81/port: 82/'")
    assert "82/TCP" in await kubectl("get", "anp", "-A", "-l", "a=b")
    patch = '{"spec":{"allowIncoming":{"toPorts":[{"port":0}]}}}'
    refused = await kubectl("patch", "anp", "web", "--type=merge", "-p", patch, fails=True)
    assert "spec.allowIncoming.toPorts[0].port: Invalid value: 0" in refused
    assert "replaced" in await kubectl("replace", *file)
    taken = await kubectl("create", *file, fails=True)
    assert "(AlreadyExists)" in taken
    manifest.write_text(manifest.read_text().replace("podSelector", "podSelectr"))
    assert "podSelectr" in await kubectl("apply", *file, fails=True)
    assert "deleted" in await kubectl("delete", "anp", "web")
    assert "(NotFound)" in await kubectl("get", "anp", "web", fails=True)


async def test_what_kubectl_learns_of_the_server(kubectl: Kubectl) -> None:
    assert "networkpolicys" in await kubectl("api-resources")
    assert "net.alpha.kubernetes.io/v1alpha1" in await kubectl("api-versions")
    assert "Server Version: v" in await kubectl("version")
    field = "networkpolicys.spec.allowIncoming.from"
    told = await kubectl("explain", field, "--api-version=net.alpha.kubernetes.io/v1alpha1")
    assert "any source, outside" in told
    assert "namespaces" in told


async def test_pods_and_namespaces_as_far_as_the_enforcer_needs_them(
    kubectl: Kubectl, tmp_path: Path
) -> None:
    pod = tmp_path / "pod.yaml"
    pod.write_text(
        "kind: Pod\napiVersion: v1\nmetadata: {name: backend, labels: {app: nginx}}\n"
        "spec:\n  containers: [{name: nginx, image: nginx, ports: [{containerPort: 80}]}]\n"
    )
    await kubectl("create", "namespace", "pods")
    where = ("--namespace", "pods")
    assert "created" in await kubectl("apply", *where, "-f", str(pod))
    assert "unchanged" in await kubectl("apply", *where, "-f", str(pod))
    patch = ("--subresource=status", "--type=merge", "-p", '{"status":{"podIP":"10.0.0.3"}}')
    await kubectl("patch", "pod", "backend", *where, *patch)
    assert "10.0.0.3" in await kubectl("get", "pods", *where, "-o", "wide")
    edit = "sed -i s/nginx$/other/"
    assert "edited" in await kubectl("edit", "pod", "backend", *where, editor=edit)
    assert "other" in await kubectl("describe", "pod", "backend", *where)
    edit = "s/^  name: pods/  labels: {team: x}\\n  name: pods/"
    assert "edited" in await kubectl("edit", "namespace", "pods", editor=f"sed -i '{edit}'")
    assert "No resources" in await kubectl("get", "events", "--namespace", "pods")
    assert "deleted" in await kubectl("delete", "namespace", "pods")
    assert "No resources found" in await kubectl("get", "pods", "-A")


async def test_get_watch_prints_changes_as_they_come(kubectl: Kubectl, server: Server) -> None:
    process = await asyncio.create_subprocess_exec(
        "timeout", "6", "kubectl", "--server", server.url, "get", "namespaces", "--watch-only",
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "KUBECONFIG": "/dev/null"},
    )  # fmt: skip
    await asyncio.sleep(1.5)
    await kubectl("create", "namespace", "watched")
    await kubectl("delete", "namespace", "watched", "--wait=false")
    assert process.stdout is not None
    async with asyncio.timeout(8):
        seen = (await process.stdout.read()).decode()
    await process.wait()
    assert "watched   Active" in seen
    assert "watched   Terminating" in seen
