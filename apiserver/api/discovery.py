"""The documents of discovery, plain and aggregated: which groups, versions and resources exist."""

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

from apiserver.api.resource import STATUS_VERBS, VERBS, Resource

Json = dict[str, Any]


def api_versions(resources: Sequence[Resource], *, address: str) -> Json:
    """`/api`: the versions of the core group."""
    return {
        "kind": "APIVersions",
        "versions": list(dict.fromkeys(r.version for r in resources)),
        "serverAddressByClientCIDRs": [_address(address)],
    }


def api_group_list(resources: Sequence[Resource], *, address: str) -> Json:
    """`/apis`: the named groups. Without an apiVersion, as upstream."""
    groups = []
    for group in dict.fromkeys(r.group for r in resources):
        body = api_group([r for r in resources if r.group == group])
        groups.append(
            {
                **{key: value for key, value in body.items() if key not in ("kind", "apiVersion")},
                "serverAddressByClientCIDRs": [_address(address)],
            }
        )
    return {"kind": "APIGroupList", "groups": groups}


def api_group(resources: Sequence[Resource]) -> Json:
    """`/apis/GROUP`."""
    first = resources[0]
    versions = [
        {"groupVersion": api_version, "version": api_version.rpartition("/")[2]}
        for api_version in dict.fromkeys(r.api_version for r in resources)
    ]
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": first.group,
        "versions": versions,
        "preferredVersion": versions[0],
    }


def api_resource_list(resources: Sequence[Resource]) -> Json:
    """`/apis/GROUP/VERSION`: the resources and subresources with their verbs."""
    listed = []
    for resource in resources:
        entry = {
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": list(VERBS),
            "shortNames": list(resource.short_names),
            "categories": list(resource.categories),
            "storageVersionHash": _storage_version_hash(resource),
        }
        listed.append({key: value for key, value in entry.items() if value != []})
        if resource.status:
            listed.append(
                {
                    "name": f"{resource.plural}/status",
                    "singularName": "",
                    "namespaced": resource.namespaced,
                    "kind": resource.kind,
                    "verbs": list(STATUS_VERBS),
                }
            )
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": resources[0].api_version,
        "resources": listed,
    }


def group_discovery_list(resources: Sequence[Resource], *, version: str) -> Json:
    """The aggregated form: all groups in one answer. `version` is v2 or v2beta1."""
    items = []
    for group in dict.fromkeys(r.group for r in resources):
        of_group = [r for r in resources if r.group == group]
        versions = [
            {
                "version": number,
                "resources": [_aggregated(r) for r in of_group if r.version == number],
                "freshness": "Current",
            }
            for number in dict.fromkeys(r.version for r in of_group)
        ]
        items.append({"metadata": {"name": group} if group else {}, "versions": versions})
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": items,
    }


def _aggregated(resource: Resource) -> Json:
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    entry: Json = {
        "resource": resource.plural,
        "responseKind": kind,
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(VERBS),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    if resource.status:
        entry["subresources"] = [
            {"subresource": "status", "responseKind": kind, "verbs": list(STATUS_VERBS)}
        ]
    return entry


def _storage_version_hash(resource: Resource) -> str:
    """Tells clients when objects come to be stored in another version."""
    text = f"{resource.group}/{resource.version}/{resource.kind}"
    return base64.b64encode(hashlib.sha256(text.encode()).digest()[:8]).decode()


def _address(address: str) -> Json:
    return {"clientCIDR": "0.0.0.0/0", "serverAddress": address}
