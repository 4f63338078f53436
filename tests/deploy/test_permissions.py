"""No process may do more than it has to: towards the kernel, and towards the cluster."""

from typing import Any

import pytest

from apiserver.admission.chain import BINDINGS, MUTATING, QUOTAS, VALIDATING
from apiserver.admission.chain import POLICIES as VALIDATING_POLICIES
from enforcer.model import NAMESPACES, PODS, POLICIES
from tests.deploy.rendering import Object, by_name, of_kind

WORKLOADS = ("Deployment", "DaemonSet", "StatefulSet")
READ = ["get", "list", "watch"]


def test_containers_are_confined(objects: list[Object]) -> None:
    for workload in of_kind(objects, *WORKLOADS):
        pod = workload["spec"]["template"]["spec"]
        host = workload["kind"] == "DaemonSet"
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.get("hostNetwork", False) is host
        assert not {"hostPID", "hostIPC"} & pod.keys()
        paths = [v["hostPath"]["path"] for v in pod.get("volumes", ()) if "hostPath" in v]
        assert paths == (["/var/lib/netpol"] if host else [])
        if not host:
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["runAsUser"] > 0
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert "privileged" not in context
            assert context["capabilities"]["drop"] == ["ALL"]
            assert context["capabilities"].get("add", []) == (["NET_ADMIN"] if host else [])
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def test_enforcers_are_on_every_node_and_the_others_apart(objects: list[Object]) -> None:
    (agents,) = of_kind(objects, "DaemonSet")
    pod = agents["spec"]["template"]["spec"]
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["priorityClassName"] == "system-node-critical"
    for workload in of_kind(objects, "Deployment", "StatefulSet"):
        spread = workload["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"]
        (terms,) = spread.values()
        selected = [t["podAffinityTerm"]["labelSelector"]["matchLabels"] for t in terms]
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert all(s.items() <= labels.items() for s in selected)


def test_bindings_name_roles_and_accounts_that_there_are(objects: list[Object]) -> None:
    made = by_name(objects)
    upstream = {"system:auth-delegator", "extension-apiserver-authentication-reader"}
    for binding in of_kind(objects, "ClusterRoleBinding", "RoleBinding"):
        role = binding["roleRef"]
        place = binding["metadata"].get("namespace", "") if role["kind"] == "Role" else ""
        assert role["name"] in upstream or (role["kind"], place, role["name"]) in made
        for subject in binding["subjects"]:
            assert (subject["kind"], subject["namespace"], subject["name"]) in made
    for workload in of_kind(objects, "Deployment", "DaemonSet"):
        account = workload["spec"]["template"]["spec"]["serviceAccountName"]
        assert ("ServiceAccount", workload["metadata"]["namespace"], account) in made


def test_the_server_may_read_the_authorities_where_they_are(objects: list[Object]) -> None:
    reader = "extension-apiserver-authentication-reader"
    (binding,) = (b for b in of_kind(objects, "RoleBinding") if b["roleRef"]["name"] == reader)
    assert binding["metadata"]["namespace"] == "kube-system"


def rules(objects: list[Object], role: str) -> list[dict[str, Any]]:
    return list(by_name(objects)["ClusterRole", "", role]["rules"])


def may(objects: list[Object], role: str, verb: str, group: str, resource: str) -> bool:
    return any(
        group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]
        for rule in rules(objects, role)
    )


def resource_of(path: str) -> tuple[str, str]:
    """Group and resource of a collection's path."""
    words = path.strip("/").split("/")
    return "" if words[0] == "api" else words[1], words[-1]


def test_the_enforcer_may_follow_what_it_follows_and_change_nothing(objects: list[Object]) -> None:
    role = "networkpolicys:enforcer"
    for path in (NAMESPACES, PODS, POLICIES):
        assert all(may(objects, role, verb, *resource_of(path)) for verb in READ), path
    assert all(set(rule["verbs"]) <= set(READ) for rule in rules(objects, role))


def test_the_server_may_follow_what_admits_writes(objects: list[Object]) -> None:
    role = "networkpolicys:apiserver"
    for path in (NAMESPACES, MUTATING, VALIDATING, VALIDATING_POLICIES, BINDINGS, QUOTAS):
        assert all(may(objects, role, verb, *resource_of(path)) for verb in READ), path


def test_the_server_may_change_nothing_but_tell_of_itself(objects: list[Object]) -> None:
    for rule in rules(objects, "networkpolicys:apiserver"):
        assert set(rule["verbs"]) <= set(READ)
        assert "*" not in (*rule["apiGroups"], *rule["resources"])
        assert not {"secrets", "pods", "configmaps"} & set(rule["resources"])
    (role,), (deployment,) = of_kind(objects, "Role"), of_kind(objects, "Deployment")
    assert role["metadata"]["namespace"] == deployment["metadata"]["namespace"]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}]


@pytest.mark.parametrize(
    ("role", "verb", "allowed"),
    [
        ("view", "list", True),
        ("view", "create", False),
        ("edit", "create", True),
        ("edit", "deletecollection", True),
        ("admin", "patch", True),
    ],
)
def test_users_may_do_with_policies_what_their_role_allows_with_the_rest(
    objects: list[Object], role: str, verb: str, allowed: bool
) -> None:
    label = f"rbac.authorization.k8s.io/aggregate-to-{role}"
    mine = [
        o["metadata"]["name"]
        for o in of_kind(objects, "ClusterRole")
        if o["metadata"]["labels"].get(label) == "true"
    ]
    group = "net.alpha.kubernetes.io"
    assert any(may(objects, name, verb, group, "networkpolicys") for name in mine) is allowed
