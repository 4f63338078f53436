"""Section 23 of the behaviour checklist: every command of kubectl, and what it prints."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Kubectl

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="there is no kubectl here")

MANIFEST = """\
apiVersion: net.alpha.kubernetes.io/v1alpha1
kind: NetworkPolicy
metadata:
  name: {name}
  labels: {{app: {name}}}
spec:
  podSelector: {{app: {name}}}
  allowIncoming:
    from:
    - pods: {{role: front}}
    toPorts:
    - port: {port}
"""


@pytest.fixture
async def policies(kubectl: Kubectl, tmp_path: Path) -> AsyncIterator[Path]:
    """Two policies, `web` and `db`, and the file of the first."""
    files = [tmp_path / f"{name}.yaml" for name in ("web", "db")]
    for file, port in zip(files, (80, 5432), strict=True):
        file.write_text(MANIFEST.format(name=file.stem, port=port))
        await kubectl("apply", "-f", str(file))
    yield files[0]
    await kubectl("delete", "anp", "--all")


async def test_api_resources_api_versions_and_short_names(kubectl: Kubectl, policies: Path) -> None:
    told = await kubectl("api-resources", "--api-group=net.alpha.kubernetes.io", "-o", "wide")
    assert "networkpolicys   anp,netpola   net.alpha.kubernetes.io/v1alpha1   true" in told
    assert "create,delete,deletecollection,get,list,patch,update,watch" in told
    assert "net.alpha.kubernetes.io/v1alpha1" in await kubectl("api-versions")
    for name in ("anp", "netpola", "networkpolicys", "networkpolicy.net.alpha.kubernetes.io"):
        assert "web" in await kubectl("get", name, "--no-headers"), name


async def test_get_in_all_forms(kubectl: Kubectl, policies: Path) -> None:
    lines = (await kubectl("get", "anp", "-o", "wide")).splitlines()
    assert lines[0].split() == ["NAME", "POD-SELECTOR", "ALLOW-FROM", "PORTS", "AGE", "GENERATION"]
    assert lines[1].split()[:4] == ["db", "app=db", "role=front", "5432/TCP"]
    assert (await kubectl("get", "anp", "web", "-o", "name")).strip() == (
        "networkpolicy.net.alpha.kubernetes.io/web"
    )
    assert json.loads(await kubectl("get", "anp", "-o", "json"))["kind"] == "List"
    assert "kind: NetworkPolicy" in await kubectl("get", "anp", "web", "-o", "yaml")
    path = "jsonpath={.spec.podSelector.app}"
    assert await kubectl("get", "anp", "web", "-o", path) == "web"
    columns = "custom-columns=N:.metadata.name,P:.spec.allowIncoming.toPorts[0].port"
    assert "web   80" in await kubectl("get", "anp", "-o", columns)
    for chunked in ("get anp --chunk-size=1", "get anp --chunk-size=1 -o name"):
        assert len((await kubectl(*chunked.split(), "--no-headers")).split("\n")) == 3
    by_port = ["get", "anp", "--sort-by=.spec.allowIncoming.toPorts[0].port", "--no-headers"]
    assert (await kubectl(*by_port)).split()[0] == "web"
    assert "app=web" in await kubectl("get", "anp", "web", "--show-labels", "--no-headers")
    raw = await kubectl("get", "--raw", "/apis/net.alpha.kubernetes.io/v1alpha1/networkpolicys")
    assert json.loads(raw)["kind"] == "NetworkPolicyList"


async def test_get_by_selectors(kubectl: Kubectl, policies: Path) -> None:
    for selector in (
        ("-l", "app=web"),
        ("-l", "app in (web,other)"),
        ("--field-selector", "metadata.name=web"),
        ("--field-selector", "spec.podSelector.app=web"),
        ("--field-selector", "spec.allowIncoming.toPorts.port=80"),
    ):
        told = await kubectl("get", "anp", "-A", *selector, "--no-headers")
        assert [line.split()[1] for line in told.splitlines()] == ["web"], selector
    refused = await kubectl("get", "anp", "--field-selector=spec.nope=1", fails=True)
    assert "field label not supported: spec.nope" in refused
    assert "No resources found in default namespace." in await kubectl("get", "anp", "-l", "no=no")


async def test_get_watch_of_one_name(kubectl: Kubectl, policies: Path) -> None:
    watch = asyncio.create_task(
        kubectl("get", "anp", "web", "--watch", "--no-headers", "--request-timeout=4s")
    )
    await asyncio.sleep(1.5)
    await kubectl("label", "anp", "db", "x=y")
    await kubectl("patch", "anp", "web", "-p", '{"spec":{"podSelector":{"more":"yes"}}}')
    seen = await watch
    assert [line.split()[1] for line in seen.splitlines()] == ["app=web", "app=web,more=yes"]


async def test_describe_shows_the_fields_and_events(
    kubectl: Kubectl, policies: Path, tmp_path: Path
) -> None:
    uid = await kubectl("get", "anp", "web", "-o", "jsonpath={.metadata.uid}")
    event = tmp_path / "event.json"
    involved = {
        "apiVersion": "net.alpha.kubernetes.io/v1alpha1",
        "kind": "NetworkPolicy",
        "namespace": "default",
        "name": "web",
        "uid": uid,
    }
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "web.1", "namespace": "default"},
        "involvedObject": involved,
        "reason": "Enforced",
        "message": "the policy is in force",
        "type": "Normal",
    }
    event.write_text(json.dumps(body))
    await kubectl("create", "-f", str(event))
    told = await kubectl("describe", "anp", "web")
    assert "Pod Selector:" in told
    assert "Port:  80" in told
    told = await kubectl("events", "--for", "networkpolicy.net.alpha.kubernetes.io/web")
    assert "the policy is in force" in told
    await kubectl("delete", "event", "web.1")


async def test_explain_teaches(kubectl: Kubectl) -> None:
    version = "--api-version=net.alpha.kubernetes.io/v1alpha1"
    told = await kubectl("explain", "networkpolicys", version)
    assert "Lets traffic in to some pods of a namespace" in told
    told = await kubectl("explain", "networkpolicys.spec.allowIncoming.from", version)
    assert "Left out or empty: any source" in " ".join(told.split())
    assert "pods\t" in told
    assert "namespaces\t" in told
    told = await kubectl("explain", "networkpolicys", version, "--recursive")
    assert "toPorts" in told
    old = await kubectl("explain", "anp.spec", version, "--output=plaintext-openapiv2")
    assert "podSelector" in old


async def test_create_replace_and_delete(kubectl: Kubectl, tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(MANIFEST.format(name="one", port=1))
    tried = await kubectl("create", "-f", str(file), "--dry-run=server", "-o", "yaml")
    assert "uid:" in tried
    assert "resourceVersion" not in tried
    assert "created" in await kubectl("create", "-f", str(file))
    managed = await kubectl("get", "anp", "one", "-o", "yaml", "--show-managed-fields")
    assert "manager: kubectl-create" in managed
    file.write_text(MANIFEST.format(name="one", port=2))
    assert "replaced" in await kubectl("replace", "-f", str(file))
    assert "replaced" in await kubectl("replace", "--force", "-f", str(file))
    file.write_text(file.read_text().replace("podSelector", "podSelektor"))
    refused = await kubectl("create", "-f", str(file), fails=True)
    assert 'strict decoding error: unknown field "spec.podSelektor"' in refused
    assert "(server dry run)" in await kubectl("delete", "anp", "one", "--dry-run=server")
    for flags in (
        ("--wait=false",),
        ("--cascade=background",),
        ("--grace-period=5",),
        ("--now",),
        ("--ignore-not-found",),
    ):
        file.write_text(MANIFEST.format(name="one", port=1))
        await kubectl("apply", "-f", str(file))
        assert '"one" deleted' in await kubectl("delete", "anp", "one", *flags)
    for cascade, finalizer in (("orphan", "orphan"), ("foreground", "foregroundDeletion")):
        await kubectl("create", "-f", str(file))
        await kubectl("delete", "anp", "one", f"--cascade={cascade}", "--wait=false")
        held = await kubectl("get", "anp", "one", "-o", "jsonpath={.metadata.finalizers}")
        assert json.loads(held) == [finalizer]
        remove = '{"metadata":{"finalizers":null}}'
        await kubectl("patch", "anp", "one", "--type=merge", "-p", remove)
    await kubectl("create", "-f", str(file))
    assert "deleted" in await kubectl("delete", "anp", "-l", "app=one")
    assert "not found" in await kubectl("delete", "anp", "one", fails=True)


async def test_apply_on_the_server_side_after_the_client_side(
    kubectl: Kubectl, policies: Path
) -> None:
    file = ("-f", str(policies))
    assert "unchanged" in await kubectl("apply", *file)
    assert "serverside-applied" in await kubectl("apply", "--server-side", *file)
    managed = await kubectl("get", "anp", "web", "-o", "json", "--show-managed-fields")
    entries = json.loads(managed)["metadata"]["managedFields"]
    assert {entry["manager"] for entry in entries} == {"kubectl", "kubectl-last-applied"}
    policies.write_text(policies.read_text().replace("port: 80", "port: 81"))
    assert "81" in await kubectl("diff", "--server-side", *file, fails=True)
    refused = await kubectl("apply", "--server-side", "--field-manager=other", *file, fails=True)
    assert 'conflict with "kubectl": .spec.allowIncoming' in refused
    assert "--force-conflicts" in refused
    forced = ("--server-side", "--field-manager=other", "--force-conflicts")
    assert "serverside-applied" in await kubectl("apply", *forced, *file)
    assert "81/TCP" in await kubectl("get", "anp", "web")
    refused = await kubectl("apply", "--server-side", *file, "--dry-run=client", fails=True)
    assert "dry-run" in refused
    told = await kubectl("apply", "--server-side", *file, "--dry-run=server")
    assert "(server dry run)" in told


async def test_diff_edit_and_patch(kubectl: Kubectl, policies: Path) -> None:
    file = ("-f", str(policies))
    assert await kubectl("diff", *file) == ""
    assert "edited" in await kubectl("edit", "anp", "web", editor="sed -i 's/port: 80/port: 82/'")
    assert "82" in await kubectl("diff", *file, fails=True)
    for kind, patch in (
        ("strategic", '{"spec":{"podSelector":{"a":"1"}}}'),
        ("merge", '{"spec":{"podSelector":{"b":"2"}}}'),
        ("json", '[{"op":"add","path":"/spec/podSelector/c","value":"3"}]'),
    ):
        assert "patched" in await kubectl("patch", "anp", "web", f"--type={kind}", "-p", patch)
    assert "(no change)" in await kubectl("patch", "anp", "web", "-p", '{"spec":{}}')
    assert "a=1,app=web,b=2,c=3" in await kubectl("get", "anp", "web")
    failed = '[{"op":"test","path":"/kind","value":"x"}]'
    refused = await kubectl("patch", "anp", "web", "--type=json", "-p", failed, fails=True)
    assert "operation 0 (test /kind): the test failed" in refused
    status = '{"status":{"conditions":[{"type":"Enforced","status":"True"}]}}'
    sub = ("--subresource=status", "--type=merge")
    assert "patched" in await kubectl("patch", "anp", "web", *sub, "-p", status)
    wait = ("wait", "anp/web", "--timeout=5s")
    assert "condition met" in await kubectl(*wait, "--for=condition=Enforced")
    assert "condition met" in await kubectl(*wait, "--for=jsonpath={.spec.podSelector.b}=2")


async def test_wait_sees_what_comes(kubectl: Kubectl, policies: Path) -> None:
    waiting = asyncio.create_task(kubectl("wait", "anp/web", "--for=delete", "--timeout=10s"))
    await asyncio.sleep(1)
    await kubectl("delete", "anp", "web")
    assert "condition met" in await waiting
    late = await kubectl("wait", "anp/db", "--for=condition=Never", "--timeout=1s", fails=True)
    assert "timed out waiting for the condition" in late


async def test_label_and_annotate(kubectl: Kubectl, policies: Path) -> None:
    assert "labeled" in await kubectl("label", "anp", "web", "a=b")
    refused = await kubectl("label", "anp", "web", "a=c", fails=True)
    assert "--overwrite" in refused
    assert "labeled" in await kubectl("label", "anp", "web", "a=c", "--overwrite")
    assert "unlabeled" in await kubectl("label", "anp", "web", "a-")
    assert "annotated" in await kubectl("annotate", "anp", "--all", "note=x")
    refused = await kubectl("label", "anp", "web", "bad=-x", fails=True)
    assert "a valid label must be" in refused


async def test_version_and_what_is_not_there(kubectl: Kubectl, policies: Path) -> None:
    assert "Server Version: v" in await kubectl("version")
    told = await kubectl("version", "-o", "json")  # and a warning of their different ages
    version, _ = json.JSONDecoder().raw_decode(told)
    assert version["serverVersion"]["gitVersion"].startswith("v")
    assert "(NotFound)" in await kubectl("get", "anp", "none", fails=True)
    assert await kubectl("get", "anp", "none", "--ignore-not-found") == ""
    refused = await kubectl("scale", "anp/web", "--replicas=2", fails=True)
    assert "the server could not find the requested resource" in refused
    refused = await kubectl("get", "nonsense", fails=True)
    assert "the server doesn't have a resource type" in refused


async def test_auth_can_i(kubectl: Kubectl) -> None:
    assert (await kubectl("auth", "can-i", "list", "networkpolicys")).startswith("yes")
    assert (await kubectl("auth", "can-i", "create", "pods", "--quiet")) == ""


async def test_raw_writes(kubectl: Kubectl, tmp_path: Path) -> None:
    path = "/apis/net.alpha.kubernetes.io/v1alpha1/namespaces/default/networkpolicys"
    file = tmp_path / "raw.json"
    file.write_text('{"kind":"NetworkPolicy","metadata":{"name":"raw"},"spec":{}}')
    assert '"uid"' in await kubectl("create", "--raw", path, "-f", str(file))
    assert '"uid"' in await kubectl("replace", "--raw", f"{path}/raw", "-f", str(file))
    assert '"Success"' in await kubectl("delete", "--raw", f"{path}/raw")
