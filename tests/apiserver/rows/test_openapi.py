"""Section 5: OpenAPI."""

import gzip
import hashlib

import httpx
import pytest

PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
GROUP = "apis/net.alpha.kubernetes.io/v1alpha1"
POLICY = "io.k8s.kubernetes.alpha.net.v1alpha1.NetworkPolicy"
KIND = {"group": "net.alpha.kubernetes.io", "version": "v1alpha1", "kind": "NetworkPolicy"}
OBJECT = f"/{GROUP}/namespaces/{{namespace}}/networkpolicys/{{name}}"


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        (PROTOBUF, PROTOBUF),
        (PROTOBUF.replace("spec.v2.v1.0", "spec.v2@v1.0"), PROTOBUF),
        (f"application/json;q=0.5, {PROTOBUF}", PROTOBUF),
        ("text/html, application/json", "application/json"),
    ],
)
async def test_O01_O03_version_2_is_json_or_protobuf(
    http: httpx.AsyncClient, accept: str, media: str
) -> None:
    answer = await http.get("/openapi/v2", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, media)
    assert answer.content.startswith(b"{" if media == "application/json" else b"\n\x032.0")


async def test_O01_another_type_of_version_2_is_406(http: httpx.AsyncClient) -> None:
    answer = await http.get("/openapi/v2", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.content) == (406, b"")


async def test_O02_version_2_can_be_revalidated(http: httpx.AsyncClient) -> None:
    answer = await http.get("/openapi/v2", headers={"Accept-Encoding": "identity"})
    tag = answer.headers["etag"]
    assert tag == f'"{hashlib.sha512(answer.content).hexdigest().upper()}"'
    assert {"last-modified", "vary", "accept-ranges"} <= set(answer.headers)
    other = await http.get("/openapi/v2", headers={"Accept": PROTOBUF})
    assert other.headers["etag"] == tag
    same = await http.get("/openapi/v2", headers={"If-None-Match": tag})
    assert same.status_code == 304
    async with http.stream("GET", "/openapi/v2", headers={"Accept-Encoding": "gzip"}) as zipped:
        raw = b"".join([chunk async for chunk in zipped.aiter_raw()])
    assert zipped.headers["content-encoding"] == "gzip"
    assert gzip.decompress(raw) == answer.content


async def test_O04_kinds_and_actions_are_marked(http: httpx.AsyncClient) -> None:
    body = (await http.get("/openapi/v2")).json()
    assert body["definitions"][POLICY]["x-kubernetes-group-version-kind"] == [KIND]
    assert "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta" in body["definitions"]
    found = {
        operation["x-kubernetes-action"]
        for path, operations in body["paths"].items()
        if path.startswith(f"/{GROUP}/")
        for method, operation in operations.items()
        if method != "parameters" and operation["x-kubernetes-group-version-kind"] == KIND
    }
    assert found == {
        *("get", "list", "post", "put", "patch", "delete", "deletecollection"),
        *("watch", "watchlist"),
    }


async def test_O05_O06_a_patch_says_what_it_takes(http: httpx.AsyncClient) -> None:
    operation = (await http.get(f"/openapi/v3/{GROUP}")).json()["paths"][OBJECT]["patch"]
    names = {parameter["name"] for parameter in operation["parameters"]}
    assert {"dryRun", "fieldManager", "fieldValidation", "force"} <= names
    types = [
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    ]
    assert list(operation["requestBody"]["content"]) == types
    v2 = (await http.get("/openapi/v2")).json()["paths"][OBJECT]["patch"]
    assert v2["consumes"] == types


async def test_O07_O08_version_3_is_found_by_hash(http: httpx.AsyncClient) -> None:
    index = await http.get("/openapi/v3")
    assert "etag" in index.headers
    paths = index.json()["paths"]
    assert {"apis", "apis/net.alpha.kubernetes.io", GROUP, "version", "api/v1"} <= set(paths)
    for path, entry in paths.items():
        url = entry["serverRelativeURL"]
        assert url.startswith(f"/openapi/v3/{path}?hash=")
        hashed = await http.get(url)
        assert hashed.headers["cache-control"] == "public, immutable"
        assert hashed.headers["expires"].endswith("GMT")
        assert hashed.json()["openapi"] == "3.0.0"
    plain = await http.get(f"/openapi/v3/{GROUP}")
    assert plain.headers["cache-control"] == "no-cache, private"
    moved = await http.get(f"/openapi/v3/{GROUP}?hash=OLD")
    assert moved.status_code == 301
    assert moved.headers["location"] == paths[GROUP]["serverRelativeURL"]
    tag = {"If-None-Match": plain.headers["etag"]}
    assert (await http.get(f"/openapi/v3/{GROUP}", headers=tag)).status_code == 304


async def test_O09_an_unknown_version_is_404(http: httpx.AsyncClient) -> None:
    for path in ("/openapi/v3/apis/nope/v1", "/openapi/v3/"):
        answer = await http.get(path)
        assert answer.status_code == 404, path


async def test_O10_every_field_is_described(http: httpx.AsyncClient) -> None:
    schemas = (await http.get(f"/openapi/v3/{GROUP}")).json()["components"]["schemas"]
    own = {name: s for name, s in schemas.items() if ".alpha.net." in name}
    assert len(own) >= 8
    for name, schema in own.items():
        assert schema["description"], name
        for field, described in schema.get("properties", {}).items():
            assert len(described["description"]) > 4, (name, field)


async def test_O11_lists_and_maps_say_how_they_merge(http: httpx.AsyncClient) -> None:
    schemas = (await http.get(f"/openapi/v3/{GROUP}")).json()["components"]["schemas"]
    status = schemas[f"{POLICY}Status"]["properties"]["conditions"]
    assert status["x-kubernetes-list-type"] == "map"
    assert status["x-kubernetes-list-map-keys"] == ["type"]
    assert status["x-kubernetes-patch-merge-key"] == "type"
    spec = schemas[f"{POLICY}Spec"]["properties"]
    assert {field["x-kubernetes-map-type"] for field in spec.values()} == {"atomic"}
    rule = schemas["io.k8s.kubernetes.alpha.net.v1alpha1.Rule"]["properties"]
    assert {field["x-kubernetes-list-type"] for field in rule.values()} == {"atomic"}
