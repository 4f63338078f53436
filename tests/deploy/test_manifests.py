"""What is installed is valid, and its parts fit together."""

from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from apiserver.server import DRAIN
from apiserver.settings import Settings
from enforcer.telemetry import show
from enforcer.telemetry.endpoint import Endpoint
from tests.deploy.rendering import Object, by_name, of_kind

# The oldest that the chart takes, and the newest whose schemas there are.
RELEASES = ("1.27", "1.37")
# Their definitions come with cert-manager and with the Prometheus operator.
CUSTOM = {"Certificate", "Issuer", "PodMonitor", "PrometheusRule", "ServiceMonitor"}
WORKLOADS = ("Deployment", "DaemonSet", "StatefulSet")


def pods(objects: list[Object]) -> dict[str, Any]:
    return {
        w["metadata"]["name"]: w["spec"]["template"]["spec"] for w in of_kind(objects, *WORKLOADS)
    }


@pytest.mark.parametrize("release", RELEASES)
def test_every_object_is_one_by_the_schemas(
    variants: dict[str, list[Object]], release: str
) -> None:
    # Most objects are the same in all variants.
    different = {str(obj): obj for made in variants.values() for obj in made}
    checked = [obj for obj in different.values() if obj["kind"] not in CUSTOM]
    for obj in checked:
        kubernetes_validate.validate(obj, release, strict=True)
    assert len(checked) > 20


def test_the_schemas_find_what_is_wrong(variants: dict[str, list[Object]]) -> None:
    (deployment,) = of_kind(variants["cert-manager"], "Deployment")
    wrong = {**deployment, "spec": {**deployment["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, RELEASES[0], strict=True)


def test_the_aggregator_finds_the_service_and_the_service_its_pods(objects: list[Object]) -> None:
    (api,) = of_kind(objects, "APIService")
    assert api["metadata"]["name"] == f"{api['spec']['version']}.{api['spec']['group']}"
    assert (api["spec"]["groupPriorityMinimum"], api["spec"]["versionPriority"]) == (1000, 15)
    named = api["spec"]["service"]
    service = by_name(objects)["Service", named["namespace"], named["name"]]
    (port,) = (p for p in service["spec"]["ports"] if p["port"] == named["port"])
    (deployment,) = of_kind(objects, "Deployment")
    pod = deployment["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (open_port,) = pod["spec"]["containers"][0]["ports"]
    assert port["targetPort"] == open_port["name"]
    assert f"--secure-port={open_port['containerPort']}" in pod["spec"]["containers"][0]["args"]


def test_selectors_budgets_and_monitors_mean_the_pods_that_are_made(
    variants: dict[str, list[Object]],
) -> None:
    made = variants["cert-manager"] + variants["monitoring"]
    labels = [w["spec"]["template"]["metadata"]["labels"] for w in of_kind(made, *WORKLOADS)]
    for obj in of_kind(made, *WORKLOADS, "PodDisruptionBudget"):
        selected = obj["spec"]["selector"]["matchLabels"].items()
        assert sum(selected <= pod.items() for pod in labels) == 1, obj["metadata"]["name"]
    for monitor in of_kind(made, "ServiceMonitor"):
        selected = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = (
            s for s in of_kind(made, "Service") if selected <= s["metadata"]["labels"].items()
        )
        ports = {port["name"] for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports
        # The alerts and the dashboard know it by that name.
        assert service["metadata"]["name"] == monitor["metadata"]["name"]
    (monitor,) = of_kind(made, "PodMonitor")
    selected = monitor["spec"]["selector"]["matchLabels"].items()
    (agents,) = (
        w
        for w in of_kind(made, *WORKLOADS)
        if selected <= w["spec"]["template"]["metadata"]["labels"].items()
    )
    ports = {p["name"] for p in agents["spec"]["template"]["spec"]["containers"][0]["ports"]}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in ports
    jobs = [r["replacement"] for r in endpoint["relabelings"] if r["targetLabel"] == "job"]
    assert jobs == [monitor["metadata"]["name"]] == [agents["metadata"]["name"]]


def test_every_mount_has_its_volume_and_every_secret_is_made(objects: list[Object]) -> None:
    made = {o["metadata"]["name"] for o in of_kind(objects, "Secret")}
    made |= {o["spec"]["secretName"] for o in of_kind(objects, "Certificate")}
    if not of_kind(objects, "StatefulSet"):
        made.add("networkpolicys-etcd-client")  # the operator's, of the etcd that is there
    for name, pod in pods(objects).items():
        volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
        workload = next(w for w in of_kind(objects, *WORKLOADS) if w["metadata"]["name"] == name)
        claimed = {c["metadata"]["name"] for c in workload["spec"].get("volumeClaimTemplates", ())}
        mounted = {m["name"] for c in pod["containers"] for m in c.get("volumeMounts", ())}
        assert mounted == volumes.keys() | claimed
        assert {v["secret"]["secretName"] for v in volumes.values() if "secret" in v} <= made


def test_probes_name_ports_of_their_containers(objects: list[Object]) -> None:
    for pod in pods(objects).values():
        for container in pod["containers"]:
            ports = {port["name"] for port in container.get("ports", ())}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if probe in container:
                    assert container[probe]["httpGet"]["port"] in ports


@pytest.mark.parametrize("address", ["10.0.0.7", "fd00::7"])
def test_the_enforcer_serves_where_the_kubelet_asks(objects: list[Object], address: str) -> None:
    (pod,) = (pod for pod in pods(objects).values() if pod.get("hostNetwork"))
    (container,) = pod["containers"]
    (given,) = (e for e in container["env"] if e["name"] == show.VARIABLE)
    endpoint = Endpoint.parse(given["value"].replace("$(HOST_IP)", address))
    (port,) = container["ports"]
    # A probe without a host goes to the address of the pod, which is the node's.
    assert endpoint == Endpoint(address, port["containerPort"])
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": port["name"]}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port["name"]}
    # A name is expanded only by what stands before it.
    names = [entry["name"] for entry in container["env"]]
    assert names.index("HOST_IP") < names.index(show.VARIABLE)


def test_a_pod_ends_before_the_kubelet_ends_it(variants: dict[str, list[Object]]) -> None:
    pod = pods(variants["cert-manager"])["networkpolicys"]
    settings = Settings(_cli_parse_args=pod["containers"][0]["args"])
    assert settings.shutdown_delay_duration > 0
    assert settings.shutdown_delay_duration + DRAIN < pod["terminationGracePeriodSeconds"]


def test_the_server_asks_the_members_that_etcd_has(variants: dict[str, list[Object]]) -> None:
    made = variants["cert-manager"]
    (etcd,) = of_kind(made, "StatefulSet")
    names = [f"{etcd['metadata']['name']}-{n}" for n in range(etcd["spec"]["replicas"])]
    hosts = [
        f"{n}.{etcd['spec']['serviceName']}.{etcd['metadata']['namespace']}.svc" for n in names
    ]
    server = pods(made)["networkpolicys"]["containers"][0]
    (servers,) = (e["value"] for e in server["env"] if e["name"] == "NETPOL_ETCD_SERVERS")
    assert servers.split(",") == [f"https://{host}:2379" for host in hosts]
    words = pods(made)["networkpolicys-etcd"]["containers"][0]["command"]
    members = [f"{n}=https://{host}:2380" for n, host in zip(names, hosts, strict=True)]
    assert f"--initial-cluster={','.join(members)}" in words
    certificates = {c["metadata"]["name"]: c["spec"] for c in of_kind(made, "Certificate")}
    assert set(hosts) <= set(certificates["networkpolicys-etcd"]["dnsNames"])


def test_cert_manager_gives_the_aggregator_the_authority_of_the_serving_certificate(
    variants: dict[str, list[Object]],
) -> None:
    made = by_name(variants["cert-manager"])
    api = made["APIService", "", "v1alpha1.net.alpha.kubernetes.io"]
    namespace, name = api["metadata"]["annotations"]["cert-manager.io/inject-ca-from"].split("/")
    certificate = made["Certificate", namespace, name]["spec"]
    service = api["spec"]["service"]
    assert f"{service['name']}.{service['namespace']}.svc" in certificate["dnsNames"]
    for obj in of_kind(list(made.values()), "Certificate"):
        assert ("Issuer", namespace, obj["spec"]["issuerRef"]["name"]) in made
    # Whoever may serve must not be able to read the store with it.
    assert (
        certificate["issuerRef"]
        != made["Certificate", namespace, "networkpolicys-etcd"]["spec"]["issuerRef"]
    )
