"""Section 14: get and list."""

import asyncio
import base64
import json
import time
from typing import Any

import httpx
import pytest

from apiserver.api import builtin, selectors, status
from tests.apiserver.rows.test_create import causes, failure
from tests.apiserver.test_resources import MERGE, create, policy
from tests.lab.cluster import Api

ROOT = "/apis/net.alpha.kubernetes.io/v1alpha1"


async def names(http: httpx.AsyncClient, path: str, **query: Any) -> list[str]:
    answer = await http.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return [item["metadata"]["name"] for item in answer.json()["items"]]


def token(**fields: Any) -> str:
    body = json.dumps({"v": "meta.k8s.io/v1", "rv": 1, "start": "a\0", **fields})
    return base64.urlsafe_b64encode(body.encode()).decode().rstrip("=")


async def test_L01_L16_a_list_has_all_that_its_items_have(
    http: httpx.AsyncClient, policies: str
) -> None:
    empty = (await http.get(policies)).json()
    assert (empty["kind"], empty["items"]) == ("NetworkPolicyList", [])
    assert empty["apiVersion"] == "net.alpha.kubernetes.io/v1alpha1"
    made = [await create(http, policies, name) for name in ("b", "a", "a-b", "a.b")]
    listed = (await http.get(policies)).json()
    assert listed["items"] == sorted(made, key=lambda item: str(item["metadata"]["name"]))
    assert set(listed["metadata"]) == {"resourceVersion"}
    one = await http.get(f"{policies}/a?watch=true&labelSelector=x=y")
    assert one.json() == made[1]


async def test_L01_namespaces_come_in_the_order_of_their_names(http: httpx.AsyncClient) -> None:
    for namespace in ("order-b", "order-a"):
        await Api(http).namespace(namespace)
        await create(http, f"{ROOT}/namespaces/{namespace}/networkpolicys", "p")
    found = (await http.get(f"{ROOT}/networkpolicys")).json()["items"]
    order = [item["metadata"]["namespace"] for item in found]
    assert order == sorted(order)


async def test_L02_the_version_of_a_list_is_that_of_the_store(
    http: httpx.AsyncClient, policies: str
) -> None:
    made = await create(http, policies, "p")
    listed = int((await http.get(policies)).json()["metadata"]["resourceVersion"])
    assert listed >= int(made["metadata"]["resourceVersion"])
    nowhere = await http.get(f"{ROOT}/namespaces/No_Such!/networkpolicys")
    assert (nowhere.status_code, nowhere.json()["items"]) == (200, [])
    assert "p" in await names(http, f"{ROOT}/namespaces//networkpolicys")


async def test_L03_odd_queries(http: httpx.AsyncClient, policies: str) -> None:
    for name in ("a", "b"):
        await create(http, policies, name)
    assert await names(http, policies, unknown="x") == ["a", "b"]
    assert await names(http, policies, limit=["1", "2"]) == ["a"]
    for limit in ("0", "-1", ""):
        assert await names(http, policies, limit=limit) == ["a", "b"]
    bad = await http.get(policies, params={"limit": "abc"})
    assert failure(bad)[2] == 'strconv.ParseInt: parsing "abc": invalid syntax'
    assert causes(bad) == [("FieldValueInvalid", "limit")]
    export = await http.get(policies, params={"export": "true"})
    assert failure(export)[2] == (
        "the export parameter, deprecated since v1.14, is no longer supported"
    )


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("a", ["p", "q"]),
        ("!a", ["r"]),
        ("a=1", ["p"]),
        ("a==1", ["p"]),
        ("a!=1", ["q", "r"]),
        ("a in (1,2)", ["p", "q"]),
        ("a notin (1)", ["q", "r"]),
        ("a>1", ["q"]),
        ("a<2", ["p"]),
        ("a,b", ["q"]),
        ("b=", ["q"]),
        ("x.io/y=z", ["r"]),
        (" a = 1 ", ["p"]),
        ("", ["p", "q", "r"]),
    ],
)
async def test_L04_label_selectors(
    http: httpx.AsyncClient, policies: str, selector: str, expected: list[str]
) -> None:
    await create(http, policies, "p", labels={"a": "1"})
    await create(http, policies, "q", labels={"a": "2", "b": ""})
    await create(http, policies, "r", labels={"x.io/y": "z"})
    assert await names(http, policies, labelSelector=selector) == expected


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a,", "found '', expected: identifier after ','"),
        (",a", "found ',', expected: !, identifier, or 'end of string'"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        (
            "app=-bad",
            'unable to parse requirement: values[0][app]: Invalid value: "-bad": a valid label',
        ),
    ],
)
async def test_L04_bad_label_selectors(
    http: httpx.AsyncClient, policies: str, selector: str, message: str
) -> None:
    answer = await http.get(policies, params={"labelSelector": selector})
    assert answer.status_code == 400
    assert failure(answer)[2].startswith(message)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("metadata.name=p", ["p"]),
        ("metadata.name==p", ["p"]),
        ("metadata.name!=p", ["q"]),
        ("metadata.name=p,metadata.name=q", []),
        ("metadata.name=p,spec.podSelector.role=web", ["p"]),
        ("metadata.namespace=elsewhere", []),
        ("metadata.generation=1", ["p", "q"]),
        ("spec.podSelector.role=web", ["p"]),
        ("spec.podSelector.role!=web", ["q"]),
        ("spec.podSelector.x.io/role=db", ["q"]),
        ("spec.allowIncoming.toPorts.port=81", ["p", "q"]),
        ("spec.allowIncoming.toPorts.port!=80", ["q"]),
        ("spec.allowIncoming.toPorts.protocol=UDP", ["q"]),
        ("metadata.labels.eq\\=al=1", []),
    ],
)
async def test_L05_L06_field_selectors_on_any_scalar(
    http: httpx.AsyncClient, policies: str, selector: str, expected: list[str]
) -> None:
    web = {
        "podSelector": {"role": "web"},
        "allowIncoming": {"toPorts": [{"port": 80}, {"port": 81}]},
    }
    data = {
        "podSelector": {"x.io/role": "db"},
        "allowIncoming": {"toPorts": [{"port": 81, "protocol": "UDP"}]},
    }
    for name, spec in (("p", web), ("q", data)):
        assert (await http.post(policies, json=policy(name, spec))).status_code == 201
    assert await names(http, policies, fieldSelector=selector) == expected


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (
            "metadata.name in (a)",
            "invalid selector: 'metadata.name in (a)'; can't understand 'metadata.name in (a)'",
        ),
        ("spec.priority=1", "field label not supported: spec.priority"),
        ("spec.allowIncoming.toPorts=1", "field label not supported: spec.allowIncoming.toPorts"),
    ],
)
async def test_L05_bad_field_selectors(
    http: httpx.AsyncClient, policies: str, selector: str, message: str
) -> None:
    answer = await http.get(policies, params={"fieldSelector": selector})
    assert failure(answer) == (400, "BadRequest", message)


async def test_L07_L08_pages_show_one_state(http: httpx.AsyncClient, policies: str) -> None:
    for name in "abcde":
        await create(http, policies, name, labels={"n": name})
    first = (await http.get(policies, params={"limit": "2"})).json()
    meta = first["metadata"]
    assert meta["remainingItemCount"] == 3
    padded = meta["continue"] + "=" * (-len(meta["continue"]) % 4)
    assert json.loads(base64.urlsafe_b64decode(padded)) == {
        "v": "meta.k8s.io/v1",
        "rv": int(meta["resourceVersion"]),
        "start": "b\0",
    }
    await http.delete(f"{policies}/c")
    await create(http, policies, "c-new")
    found = [item["metadata"]["name"] for item in first["items"]]
    while meta.get("continue"):
        query = {"limit": "2", "continue": meta["continue"]}
        page = (await http.get(policies, params=query)).json()
        assert page["metadata"]["resourceVersion"] == meta["resourceVersion"]
        found += [item["metadata"]["name"] for item in page["items"]]
        meta = page["metadata"]
    assert found == list("abcde")
    assert set(meta) == {"resourceVersion"}
    selected = await http.get(policies, params={"limit": "1", "labelSelector": "n in (a,e)"})
    assert "remainingItemCount" not in selected.json()["metadata"]
    token = selected.json()["metadata"]["continue"]
    query = {"limit": "1", "labelSelector": "n in (a,e)", "continue": token}
    last = (await http.get(policies, params=query)).json()
    assert [item["metadata"]["name"] for item in last["items"]] == ["e"]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("!", "illegal base64 data"),
        ("YWJj", "invalid character"),
        (
            token(v="meta.k8s.io/v2"),
            "server does not recognize this encoded version meta.k8s.io/v2",
        ),
        (token(rv=0), "incorrect encoded start resourceVersion (version meta.k8s.io/v1)"),
        (token(start=""), "encoded start key empty (version meta.k8s.io/v1)"),
        (token(start="../pods/x\0"), "invalid encoded start key"),
    ],
)
async def test_L09_bad_tokens(http: httpx.AsyncClient, policies: str, value: str, why: str) -> None:
    answer = await http.get(policies, params={"continue": value})
    prefix = "invalid continue token: continue key is not valid: "
    assert answer.status_code == 400
    assert failure(answer)[2].startswith(prefix + why)


async def test_L09_L11_a_token_excludes_a_version(http: httpx.AsyncClient, policies: str) -> None:
    answer = await http.get(policies, params={"continue": token(), "resourceVersion": "5"})
    assert failure(answer)[2] == "specifying resource version is not allowed when using continue"
    assert (
        await http.get(policies, params={"continue": token(rv=-1), "resourceVersion": "0"})
    ).status_code == 200


async def test_L10_an_inconsistent_token_goes_on_with_the_newest_state(
    http: httpx.AsyncClient, policies: str
) -> None:
    for name in "abc":
        await create(http, policies, name)
    assert await names(http, policies, **{"continue": token(rv=-1)}) == ["b", "c"]


async def test_L11_the_matrix_of_versions(http: httpx.AsyncClient, policies: str) -> None:
    await create(http, policies, "a")
    old = (await create(http, policies, "b"))["metadata"]["resourceVersion"]
    newest = (await create(http, policies, "c"))["metadata"]["resourceVersion"]

    async def read(**query: str) -> tuple[list[str], str]:
        body = (await http.get(policies, params=query)).json()
        found = [item["metadata"]["name"] for item in body["items"]]
        return found, body["metadata"]["resourceVersion"]

    everything = ["a", "b", "c"]
    assert await read() == (everything, newest)
    assert await read(resourceVersion="0") == (everything, newest)
    assert await read(resourceVersion="0", limit="1") == (everything, newest)
    assert await read(resourceVersion=old) == (everything, newest)
    assert await read(resourceVersion=old, resourceVersionMatch="NotOlderThan") == (
        everything,
        newest,
    )
    assert await read(resourceVersion=old, resourceVersionMatch="Exact") == (["a", "b"], old)
    assert await read(resourceVersion=old, limit="1") == (["a"], old)
    for version in ("0", old):
        answer = await http.get(f"{policies}/c", params={"resourceVersion": version})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            {"resourceVersionMatch": "Exact"},
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            {"resourceVersionMatch": "Exact", "resourceVersion": "0"},
            'resourceVersionMatch "exact" is forbidden for resourceVersion "0"',
        ),
        (
            {"resourceVersionMatch": "Exact", "resourceVersion": "1", "continue": token()},
            "resourceVersionMatch is forbidden when continue is provided",
        ),
        (
            {"resourceVersionMatch": "Bogus", "resourceVersion": "1"},
            'Unsupported value: "Bogus": supported values: "Exact", "NotOlderThan", ""',
        ),
        ({"sendInitialEvents": "true"}, "sendInitialEvents is forbidden for list"),
    ],
)
async def test_L11_L12_combinations_that_are_forbidden(
    http: httpx.AsyncClient, policies: str, query: dict[str, str], message: str
) -> None:
    answer = await http.get(policies, params=query)
    assert failure(answer)[:2] == (422, "Invalid")
    assert message in failure(answer)[2]


@pytest.mark.parametrize("version", ["abc", "-1", "1.5", "99999999999999999999999"])
async def test_L12_a_version_is_a_number(
    http: httpx.AsyncClient, policies: str, version: str
) -> None:
    for path in (policies, f"{policies}/p", f"{policies}?watch=true"):
        answer = await http.get(path, params={"resourceVersion": version, "watch": "true"})
        assert failure(answer)[:2] == (400, "BadRequest")
        assert failure(answer)[2].startswith(
            f'invalid resource version: resourceVersion: Invalid value: "{version}"'
        )


async def test_L13_E18_E19_a_version_of_the_future_is_504(
    http: httpx.AsyncClient, policies: str
) -> None:
    newest = (await http.get(policies)).json()["metadata"]["resourceVersion"]
    paths = (policies, f"{policies}/p")
    answers = await asyncio.gather(
        *(http.get(path, params={"resourceVersion": "99999999"}) for path in paths)
    )
    for answer in answers:
        assert failure(answer) == (
            504,
            "Timeout",
            f"Timeout: Too large resource version: 99999999, current: {newest}",
        )
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["details"] == {
            "causes": [
                {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
            ],
            "retryAfterSeconds": 1,
        }


def test_L04_L05_a_selector_has_a_length() -> None:
    def fields(text: str) -> Any:
        return selectors.parse_fields(text, builtin.NETWORKPOLICYS)

    for parse, term in ((selectors.parse_labels, "a=b,"), (fields, "metadata.name!=b,")):
        fits = term * (selectors.LONGEST // len(term))
        assert not parse(fits[:-1]).empty
        with pytest.raises(status.StatusError, match="longer than 65536 characters") as refused:
            parse(fits + term)
        assert refused.value.code == 400


async def test_L15_FC04_a_timeout_is_a_duration(http: httpx.AsyncClient, policies: str) -> None:
    for good in ("32s", "1m30s", "500ms", "0", "100h", "1.5h"):
        assert (await http.get(policies, params={"timeout": good})).status_code == 200
    for bad, why in (
        ("5", 'time: missing unit in duration "5"'),
        ("x", 'time: invalid duration "x"'),
        ("1" * 5000, f'time: invalid duration "{"1" * 64}..."'),
        ("1" * 60 + "x", f'time: invalid duration "{"1" * 60}x"'),
    ):
        start = time.monotonic()
        answer = await http.get(policies, params={"timeout": bad})
        assert time.monotonic() - start < 2
        assert failure(answer) == (
            400,
            "BadRequest",
            f"invalid timeout specified in the request URL - {why}",
        )
    late = await http.get(policies, params={"timeout": "50ms", "resourceVersion": "99999999"})
    assert failure(late) == (
        504,
        "Timeout",
        "Timeout: request did not complete within the allotted timeout",
    )


async def test_L18_versions_are_rising_numbers(http: httpx.AsyncClient, policies: str) -> None:
    label = {"metadata": {"labels": {"a": "b"}}}
    answers = [
        (await http.get(policies)).json(),
        await create(http, policies, "a"),
        await create(http, policies, "b"),
        (await http.patch(f"{policies}/a", json=label, headers=MERGE)).json(),
    ]
    seen = [int(answer["metadata"]["resourceVersion"]) for answer in answers]
    assert seen == sorted(set(seen))
    assert seen[0] > 0


async def test_L19_a_read_shows_what_was_written(http: httpx.AsyncClient, policies: str) -> None:
    for number in range(50):
        made = await create(http, policies, f"p{number}")
        assert (await http.get(f"{policies}/p{number}")).json() == made
        assert made in (await http.get(policies)).json()["items"]
