"""The chart installs what the manifests do, in any namespace."""

import base64
import json
from pathlib import Path

import pytest

from tests.deploy.rendering import CHART, Object, by_name, charted, container, of_kind, run

WHOLE = ("--set", "namespace.create=true")
ETCDS = ",".join(f"https://etcd-{n}.example.com:2379" for n in range(3))


def test_by_default_it_installs_what_the_overlay_does(variants: dict[str, list[Object]]) -> None:
    wanted = by_name(variants["cert-manager"])
    assert by_name(charted(*WHOLE)) == wanted
    # Helm makes the namespace itself, with --create-namespace.
    del wanted["Namespace", "", "networkpolicys"]
    assert by_name(charted()) == wanted


def test_with_certificates_that_are_there(
    variants: dict[str, list[Object]], certificates: Path
) -> None:
    bundle = base64.b64encode((certificates / "serving-ca.crt").read_bytes()).decode()
    made = charted(
        *WHOLE,
        *("--set", "certificates.provider=secret"),
        *("--set-string", f"certificates.caBundle={bundle}"),
    )
    wanted = by_name(variants["secrets"])
    private = {key for key in wanted if key[0] == "Secret"}
    assert len(private) == 3
    assert by_name(made) == {key: wanted[key] for key in wanted.keys() - private}


def test_with_another_etcd(variants: dict[str, list[Object]]) -> None:
    servers = f"etcd.servers={{{ETCDS}}}"
    made = charted(*WHOLE, "--set", "etcd.enabled=false", "--set", servers)
    assert by_name(made) == by_name(variants["external-etcd"])


def test_with_what_the_prometheus_operator_and_grafana_read(
    variants: dict[str, list[Object]],
) -> None:
    made = by_name(charted(*WHOLE, "--set", "monitoring.enabled=true"))
    assert made == by_name(variants["cert-manager"] + variants["monitoring"])


def test_in_another_namespace_nothing_speaks_of_the_first() -> None:
    options = ("--set", "monitoring.enabled=true", "--set", "namespace.create=true")
    made = charted(*options, namespace="elsewhere")
    assert of_kind(made, "Namespace")[0]["metadata"]["name"] == "elsewhere"
    for obj in made:
        assert obj["metadata"].get("namespace") in (None, "elsewhere", "kube-system")
        if obj["kind"] != "ConfigMap":
            text = json.dumps(obj)
            assert "networkpolicys.svc" not in text
            assert "networkpolicys/networkpolicys-serving" not in text


def test_an_enforcer_of_your_own_and_more_flags() -> None:
    made = charted(
        *("--set", "enforcer.enabled=false", "--set", "apiserver.replicas=3"),
        *("--set", "monitoring.enabled=true"),
        *("--set", "apiserver.extraArgs={--max-requests-inflight=800}"),
    )
    assert not of_kind(made, "DaemonSet", "PodMonitor")
    (deployment,) = of_kind(made, "Deployment")
    assert deployment["spec"]["replicas"] == 3
    (server,) = deployment["spec"]["template"]["spec"]["containers"]
    assert server["args"][-1] == "--max-requests-inflight=800"


def test_another_port_for_probes_and_metrics() -> None:
    enforcer = container(charted("--set", "enforcer.metricsPort=19999"), "enforcer")
    assert [port["containerPort"] for port in enforcer["ports"]] == [19999]
    values = {entry["name"]: entry.get("value") for entry in enforcer["env"]}
    assert values["NETPOL_METRICS_BIND_ADDRESS"] == "[$(HOST_IP)]:19999"


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("enforcer.metricsPort=0", "metricsPort"),
        ("certificates.provider=secret", "caBundle"),
        ("etcd.enabled=false", "servers"),
        ("apiserver.replica=3", "replica"),
    ],
)
def test_values_that_cannot_work_are_refused(value: str, complaint: str) -> None:
    refused = run("helm", "template", "networkpolicys", CHART, "--set", value, fails=True)
    assert complaint in refused


def test_lint_has_nothing_to_say() -> None:
    assert "0 chart(s) failed" in run("helm", "lint", "--strict", CHART)


def test_the_chart_packages_the_files_that_it_shares(tmp_path: Path) -> None:
    run("helm", "package", CHART, "--destination", tmp_path)
    (package,) = tmp_path.glob("*.tgz")
    wanted = ("--set", "monitoring.enabled=true")
    assert "NetworkpolicysStoreErrors" in run("helm", "template", "np", package, *wanted)
