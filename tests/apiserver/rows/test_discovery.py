"""Section 2: discovery."""

import hashlib
import re

import httpx
import pytest

GROUP = "net.alpha.kubernetes.io"
V2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
V2BETA1 = V2.replace("v=v2", "v=v2beta1")
VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


async def test_D01_the_groups_have_a_kind_and_no_version(http: httpx.AsyncClient) -> None:
    body = (await http.get("/apis")).json()
    assert (body["kind"], "apiVersion" in body) == ("APIGroupList", False)
    group = next(item for item in body["groups"] if item["name"] == GROUP)
    (address,) = group["serverAddressByClientCIDRs"]
    assert address["clientCIDR"] == "0.0.0.0/0"
    assert address["serverAddress"] == http.base_url.netloc.decode()


async def test_D02_a_group_names_its_versions(http: httpx.AsyncClient) -> None:
    version = {"groupVersion": f"{GROUP}/v1alpha1", "version": "v1alpha1"}
    assert (await http.get(f"/apis/{GROUP}")).json() == {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": GROUP,
        "versions": [version],
        "preferredVersion": version,
    }


async def test_D03_D04_D05_a_version_names_its_resources_and_their_verbs(
    http: httpx.AsyncClient,
) -> None:
    body = (await http.get(f"/apis/{GROUP}/v1alpha1")).json()
    assert (body["kind"], body["apiVersion"]) == ("APIResourceList", "v1")
    assert body["groupVersion"] == f"{GROUP}/v1alpha1"
    resource, status = body["resources"]
    assert resource == {
        "name": "networkpolicys",
        "singularName": "networkpolicy",
        "namespaced": True,
        "kind": "NetworkPolicy",
        "verbs": VERBS,
        "shortNames": ["anp", "netpola"],
        "storageVersionHash": resource["storageVersionHash"],
    }
    assert re.fullmatch(r"[A-Za-z0-9+/]{11}=", resource["storageVersionHash"])
    assert status == {
        "name": "networkpolicys/status",
        "singularName": "",
        "namespaced": True,
        "kind": "NetworkPolicy",
        "verbs": ["get", "patch", "update"],
    }


@pytest.mark.parametrize("path", ["/apis", "/api"])
async def test_D06_D10_aggregated_discovery_has_its_exact_type_and_an_etag(
    http: httpx.AsyncClient, path: str
) -> None:
    accept = {"Accept": f"{V2},{V2BETA1},application/json"}
    answer = await http.get(path, headers=accept)
    assert answer.headers["content-type"] == V2
    assert answer.headers["cache-control"] == "public"
    assert answer.headers["vary"] == "Accept"
    digest = hashlib.sha512(answer.content).hexdigest().upper()
    assert answer.headers["etag"] == f'"{digest}"'
    again = await http.get(path, headers={**accept, "If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_D07_the_aggregated_form_names_the_kind_of_each_response(
    http: httpx.AsyncClient,
) -> None:
    body = (await http.get("/apis", headers={"Accept": V2})).json()
    assert body["kind"] == "APIGroupDiscoveryList"
    assert (body["apiVersion"], body["metadata"]) == ("apidiscovery.k8s.io/v2", {})
    group = next(item for item in body["items"] if item["metadata"]["name"] == GROUP)
    (version,) = group["versions"]
    kind = {"group": GROUP, "version": "v1alpha1", "kind": "NetworkPolicy"}
    assert (version["version"], version["freshness"]) == ("v1alpha1", "Current")
    assert version["resources"] == [
        {
            "resource": "networkpolicys",
            "responseKind": kind,
            "scope": "Namespaced",
            "singularResource": "networkpolicy",
            "verbs": VERBS,
            "shortNames": ["anp", "netpola"],
            "subresources": [
                {
                    "subresource": "status",
                    "responseKind": kind,
                    "verbs": ["get", "patch", "update"],
                }
            ],
        }
    ]


async def test_D08_older_aggregators_get_their_version(http: httpx.AsyncClient) -> None:
    old = await http.get("/apis", headers={"Accept": V2BETA1})
    assert old.headers["content-type"] == V2BETA1
    assert old.json()["apiVersion"] == "apidiscovery.k8s.io/v2beta1"
    future = V2.replace("v=v2", "v=v3")
    assert (await http.get("/apis", headers={"Accept": future})).status_code == 406
    both = await http.get("/apis", headers={"Accept": f"{future},application/json"})
    assert both.json()["kind"] == "APIGroupList"


async def test_D09_discovery_speaks_yaml_and_refuses_text(http: httpx.AsyncClient) -> None:
    answer = await http.get("/apis", headers={"Accept": "application/yaml"})
    assert answer.headers["content-type"] == "application/yaml"
    assert "kind: APIGroupList" in answer.text
    refused = await http.get("/apis", headers={"Accept": "text/plain"})
    assert (refused.status_code, refused.json()["reason"]) == (406, "NotAcceptable")
    group = await http.get(f"/apis/{GROUP}", headers={"Accept": V2})
    assert group.status_code == 406


async def test_D12_the_version_is_semantic(http: httpx.AsyncClient) -> None:
    answer = await http.get("/version")
    body = answer.json()
    assert re.fullmatch(r"v\d+\.\d+\.\d+([-+].*)?", body["gitVersion"])
    assert {"major", "minor", "gitCommit", "gitTreeState", "buildDate"} <= set(body)
    assert {"goVersion", "compiler", "platform", "emulationMajor"} <= set(body)
    assert all(isinstance(value, str) for value in body.values())
    assert answer.text.startswith('{\n  "major"')
