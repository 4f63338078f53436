"""Section 6: content negotiation and encoding."""

import gzip
import json

import httpx
import pytest
import yaml

from tests.apiserver.test_resources import SPEC, create, policy

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
PROTOBUF = "application/vnd.kubernetes.protobuf"


async def test_N01_the_default_is_compact_json(http: httpx.AsyncClient, policies: str) -> None:
    await create(http, policies, "p")
    for path in (policies, f"{policies}/p"):
        answer = await http.get(path)
        assert answer.headers["content-type"] == "application/json"
        assert answer.text.endswith("}\n")
        assert answer.text.count("\n") == 1


@pytest.mark.parametrize(
    "accept",
    [
        f"{PROTOBUF},application/json",
        "text/html;q=0.9,application/json;q=0.1",
        "application/*",
        "application/xml, */*;q=0.1",
    ],
)
async def test_N02_what_is_not_served_is_passed_over(
    http: httpx.AsyncClient, policies: str, accept: str
) -> None:
    answer = await http.get(policies, headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")


@pytest.mark.parametrize("accept", [PROTOBUF, "text/html", "application/cbor", "image/*"])
async def test_N03_N04_E06_nothing_to_serve_is_406(
    http: httpx.AsyncClient, policies: str, accept: str
) -> None:
    answer = await http.get(policies, headers={"Accept": accept})
    assert answer.status_code == 406
    body = answer.json()
    assert body["reason"] == "NotAcceptable"
    assert body["message"] == (
        "only the following media types are accepted: application/json, application/yaml"
    )
    assert "\n  " in answer.text


async def test_N05_yaml_goes_in_and_out(http: httpx.AsyncClient, policies: str) -> None:
    headers = {"Content-Type": "application/yaml", "Accept": "application/yaml"}
    body = yaml.safe_dump(policy("p"))
    made = await http.post(policies, content=body, headers=headers)
    assert (made.status_code, made.headers["content-type"]) == (201, "application/yaml")
    assert yaml.safe_load(made.text)["spec"] == SPEC
    listed = await http.get(policies, headers=headers)
    assert yaml.safe_load(listed.text)["kind"] == "NetworkPolicyList"


@pytest.mark.parametrize("media", ["text/plain", "application/xml", "application/cbor"])
async def test_N06_E12_a_body_of_another_type_is_415(
    http: httpx.AsyncClient, policies: str, media: str
) -> None:
    answer = await http.post(policies, content=b"x", headers={"Content-Type": media})
    assert (answer.status_code, answer.json()["reason"]) == (415, "UnsupportedMediaType")
    assert "the body of the request was in an unknown format" in answer.json()["message"]


async def test_N06_no_type_and_a_charset_are_json(http: httpx.AsyncClient, policies: str) -> None:
    for name, media in (("a", ""), ("b", "application/json; charset=utf-8")):
        body = json.dumps(policy(name)).encode()
        answer = await http.post(policies, content=body, headers={"Content-Type": media})
        assert answer.status_code == 201


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
async def test_N07_N08_N10_a_table_for_people(
    http: httpx.AsyncClient, policies: str, version: str
) -> None:
    await create(http, policies, "p")
    accept = f"application/json;g=meta.k8s.io;as=Table;v={version}"
    body = (await http.get(policies, headers={"Accept": accept})).json()
    assert (body["kind"], body["apiVersion"]) == ("Table", f"meta.k8s.io/{version}")
    assert body["metadata"]["resourceVersion"].isdigit()
    first = body["columnDefinitions"][0]
    assert (first["name"], first["type"], first["format"]) == ("Name", "string", "name")
    assert all(set(c) == set(first) for c in body["columnDefinitions"])
    names = [column["name"] for column in body["columnDefinitions"]]
    assert names == ["Name", "Pod-Selector", "Allow-From", "Ports", "Age", "Generation"]
    assert [c["priority"] for c in body["columnDefinitions"]] == [0, 0, 0, 0, 0, 1]
    (row,) = body["rows"]
    assert row["cells"][:4] == ["p", "a=x", "<any>", "80/TCP"]
    assert row["cells"][4].endswith("s")
    assert row["object"]["kind"] == "PartialObjectMetadata"


async def test_N07_tables_come_from_writes_too_and_not_from_deletes(
    http: httpx.AsyncClient, policies: str
) -> None:
    headers = {"Accept": TABLE}
    made = await http.post(policies, json=policy("p"), headers=headers)
    assert (made.status_code, made.json()["kind"]) == (201, "Table")
    assert (await http.get(f"{policies}/p", headers=headers)).json()["kind"] == "Table"
    gone = await http.delete(f"{policies}/p", headers=headers)
    assert gone.json()["kind"] == "Status"


@pytest.mark.parametrize(
    "accept", ["application/json;as=Table;v=v2;g=meta.k8s.io", "application/json;as=Foo;v=v1"]
)
async def test_N07_an_unknown_transformation_is_406(
    http: httpx.AsyncClient, policies: str, accept: str
) -> None:
    assert (await http.get(policies, headers={"Accept": accept})).status_code == 406


async def test_N08_errors_are_never_tables(http: httpx.AsyncClient, policies: str) -> None:
    answer = await http.get(f"{policies}/none", headers={"Accept": f"{TABLE},application/json"})
    assert (answer.status_code, answer.json()["kind"]) == (404, "Status")


async def test_N09_rows_hold_what_is_asked_for(http: httpx.AsyncClient, policies: str) -> None:
    made = await create(http, policies, "p")

    async def row(include: str) -> dict[str, object]:
        params = {"includeObject": include}
        body = (await http.get(policies, headers={"Accept": TABLE}, params=params)).json()
        found: dict[str, object] = body["rows"][0]
        return found

    assert "object" not in await row("None")
    assert (await row("Object"))["object"] == made
    assert (await row("Metadata"))["object"] == {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": made["metadata"],
    }
    bad = {"includeObject": "Bad"}
    refused = await http.get(policies, headers={"Accept": TABLE}, params=bad)
    assert refused.status_code == 400
    assert refused.json()["message"] == (
        'Unable to convert to Table as requested: includeObject: Invalid value: "Bad":'
        " must be 'Metadata', 'Object', 'None', or empty"
    )
    assert (await http.get(policies, params=bad)).status_code == 200


async def test_N11_an_empty_table_has_no_rows(http: httpx.AsyncClient, policies: str) -> None:
    assert (await http.get(policies, headers={"Accept": TABLE})).json()["rows"] == []


async def test_N12_metadata_alone(http: httpx.AsyncClient, policies: str) -> None:
    made = await create(http, policies, "p")
    one = (await http.get(f"{policies}/p", headers={"Accept": METADATA})).json()
    expected = {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": made["metadata"],
    }
    assert one == expected
    accept = f"{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,{METADATA_LIST}"
    listed = (await http.get(policies, headers={"Accept": accept})).json()
    assert (listed["kind"], listed["items"]) == ("PartialObjectMetadataList", [expected])
    created = await http.post(policies, json=policy("q"), headers={"Accept": METADATA})
    assert set(created.json()) == set(expected)


async def test_N13_metadata_of_the_wrong_shape_is_406(
    http: httpx.AsyncClient, policies: str
) -> None:
    await create(http, policies, "p")
    listed = await http.get(policies, headers={"Accept": METADATA})
    assert listed.status_code == 406
    assert "you requested PartialObjectMetadata, but" in listed.json()["message"]
    one = await http.get(f"{policies}/p", headers={"Accept": METADATA_LIST})
    assert one.status_code == 406
    watch = await http.get(f"{policies}?watch=1", headers={"Accept": METADATA_LIST})
    assert watch.status_code == 406


async def test_N14_large_answers_are_compressed(http: httpx.AsyncClient, policies: str) -> None:
    note = {"note": "x" * 140_000}
    made = await create(http, policies, "p", annotations=note)
    for path in (f"{policies}/p", policies):
        async with http.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as answer:
            raw = b"".join([chunk async for chunk in answer.aiter_raw()])
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["vary"] == "Accept-Encoding"
        assert answer.headers["content-type"] == "application/json"
        body = json.loads(gzip.decompress(raw))
        assert made in (body, *body.get("items", ()))
        plain = await http.get(path, headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
    async with http.stream(
        "GET", f"{policies}?watch=1&timeoutSeconds=1", headers={"Accept-Encoding": "gzip"}
    ) as watch:
        assert "content-encoding" not in watch.headers


async def test_N15_numbers_keep_their_form(http: httpx.AsyncClient) -> None:
    spec = '{"large": 9223372036854775807, "whole": 1, "part": 1.5, "empty": {}, "none": []}'
    body = f'{{"kind":"Pod","metadata":{{"name":"numbers"}},"spec":{spec}}}'
    path = "/api/v1/namespaces/default/pods"
    made = await http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert made.status_code == 201, made.text
    stored = (await http.get(f"{path}/numbers")).json()["spec"]
    assert stored == json.loads(spec)
    assert all(type(stored[key]) is type(json.loads(spec)[key]) for key in stored)


@pytest.mark.parametrize("body", [b"\xef\xbb\xbf{}", b'{"kind":"\xff"}'])
async def test_N17_text_that_is_no_utf8_is_400(
    http: httpx.AsyncClient, policies: str, body: bytes
) -> None:
    answer = await http.post(policies, content=body)
    assert answer.status_code == 400


async def test_N17_names_in_urls_are_decoded(http: httpx.AsyncClient, policies: str) -> None:
    await create(http, policies, "a.b")
    assert (await http.get(f"{policies}/a%2Eb")).status_code == 200


async def test_W14_a_watch_is_json_or_nothing(http: httpx.AsyncClient, policies: str) -> None:
    stream = {"Accept": "application/json;stream=watch"}
    answer = await http.get(f"{policies}?watch=1&timeoutSeconds=-1", headers=stream)
    assert answer.headers["content-type"] == "application/json"
    refused = await http.get(f"{policies}?watch=1", headers={"Accept": "application/yaml"})
    assert refused.status_code == 406
    assert yaml.safe_load(refused.text)["message"] == (
        "only the following media types are accepted: application/json;stream=watch"
    )


async def test_W13_N12_a_watch_of_metadata_alone(http: httpx.AsyncClient, policies: str) -> None:
    made = await create(http, policies, "p")
    path = f"{policies}?watch=1&timeoutSeconds=1&resourceVersion=0"
    answer = await http.get(path, headers={"Accept": METADATA})
    event = json.loads(answer.text)
    assert event["object"]["kind"] == "PartialObjectMetadata"
    assert event["object"]["metadata"] == made["metadata"]
