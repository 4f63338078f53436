"""Section 1: request parsing and what every response carries."""

import time
from pathlib import Path

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from apiserver.api.metadata import BODY_LIMIT
from apiserver.api.origins import parse
from apiserver.http.cors import Cors
from apiserver.http.limits import WRITE_TIMEOUT
from apiserver.settings import Settings
from tests.apiserver.test_resources import create, policy
from tests.lab.processes import Server

ROOT = "/apis/net.alpha.kubernetes.io/v1alpha1"


def test_CH02_the_limits_are_upstreams() -> None:
    found = Settings(standalone=True)
    assert (found.max_requests_inflight, found.max_mutating_requests_inflight) == (400, 200)
    assert (found.request_timeout, found.min_request_timeout) == (60, 1800)
    assert (found.shutdown_delay_duration, BODY_LIMIT, WRITE_TIMEOUT) == (0, 3145728, 34)


async def test_CH01_CH05_CH06_every_answer_has_an_audit_id_and_is_not_cached(
    http: httpx.AsyncClient, policies: str
) -> None:
    for path in (policies, "/nope", f"{policies}/none", "/version", f"{policies}?limit=x"):
        answer = await http.get(path)
        assert len(answer.headers["audit-id"]) == 36
        assert answer.headers["cache-control"] == "no-cache, private"
    echoed = await http.get(policies, headers={"Audit-ID": "mine"})
    assert echoed.headers["audit-id"] == "mine"


async def test_CH08_a_refusal_is_not_sniffed(http: httpx.AsyncClient) -> None:
    answer = await http.delete("/api/v1/namespaces/default")
    assert answer.status_code == 403
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_CH04_any_watch_but_0_and_false_is_one(
    http: httpx.AsyncClient, policies: str
) -> None:
    for value, watches in (("1", True), ("abc", True), ("", True), ("0", False), ("FALSE", False)):
        answer = await http.get(policies, params={"watch": value, "timeoutSeconds": "-1"})
        assert ("transfer-encoding" in answer.headers) is watches, value


async def test_CH09_warnings_are_quoted_deduplicated_and_sent_with_errors_too(
    http: httpx.AsyncClient, policies: str
) -> None:
    body = policy("p") | {'odd"field': 1}
    answer = await http.post(policies, json=body)
    assert answer.headers.get_list("warning") == ['299 - "unknown field \\"odd\\\\\\"field\\""']
    many = policy("q") | {f"{'x' * 300}{n}": 1 for n in range(20)}
    headers = (await http.post(policies, json=many)).headers.get_list("warning")
    assert len(headers) == 20
    assert all(len(text) < 270 for text in headers)


@pytest.mark.parametrize(
    "path",
    ["/apis", "/apis/net.alpha.kubernetes.io", ROOT, f"{ROOT}/networkpolicys", "/version"],
)
async def test_CH10_a_trailing_slash_changes_nothing(http: httpx.AsyncClient, path: str) -> None:
    with_slash, without = await http.get(f"{path}/"), await http.get(path)
    assert with_slash.status_code == without.status_code == 200
    assert with_slash.json() == without.json()


async def test_CH10_other_slashes_do(http: httpx.AsyncClient) -> None:
    for path in ("/healthz/", "/apis//net.alpha.kubernetes.io"):
        assert (await http.get(path)).status_code == 404, path


async def test_CH11_an_unknown_path_answers_with_the_known_ones(http: httpx.AsyncClient) -> None:
    index = await http.get("/")
    missing = await http.get("/nope")
    assert (index.status_code, missing.status_code) == (200, 404)
    assert index.headers["content-type"] == missing.headers["content-type"] == "application/json"
    paths = index.json()["paths"]
    assert paths == missing.json()["paths"] == sorted(paths)
    assert {"/apis", ROOT, "/healthz", "/openapi/v3", "/metrics", "/version"} <= set(paths)
    assert index.text.startswith('{\n  "paths": [\n    "/api')


@pytest.mark.parametrize(
    "path",
    [
        "/apis/net.alpha.kubernetes.io/v9",
        f"{ROOT}/nonsense",
        f"{ROOT}/namespaces/default/networkpolicys/p/scale",
    ],
)
async def test_CH12_what_a_served_group_does_not_have_is_a_status(
    http: httpx.AsyncClient, path: str
) -> None:
    answer = await http.get(path)
    assert answer.status_code == 404
    assert answer.json() == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "the server could not find the requested resource",
        "reason": "NotFound",
        "details": {},
        "code": 404,
    }


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "{policies}"),
        ("PATCH", "{policies}"),
        ("POST", "{policies}/p"),
        ("POST", f"{ROOT}/networkpolicys"),
        ("DELETE", f"{ROOT}/networkpolicys"),
        ("OPTIONS", "{policies}"),
        ("POST", "/version"),
    ],
)
async def test_CH13_CH14_E05_a_wrong_method_is_405(
    http: httpx.AsyncClient, policies: str, method: str, path: str
) -> None:
    answer = await http.request(method, path.format(policies=policies))
    assert answer.status_code == 405
    body = answer.json()
    assert body["message"] == "the server does not allow this method on the requested resource"
    assert (body["reason"], body["details"]) == ("MethodNotAllowed", {})
    assert method not in answer.headers["allow"]


async def test_CH14_a_head_is_a_get_without_a_body(http: httpx.AsyncClient, policies: str) -> None:
    await create(http, policies, "p")
    for path in (f"{policies}/p", policies, f"{policies}?watch=true", "/version", "/apis"):
        answer = await http.head(path)
        assert (answer.status_code, answer.content) == (200, b""), path


async def test_CH15_people_get_it_indented(http: httpx.AsyncClient, policies: str) -> None:
    await create(http, policies, "p")

    async def indented(query: str = "", **headers: str) -> bool:
        found = await http.get(f"{policies}/p{query}", headers=headers)
        return "\n  " in found.text

    curl = {"User-Agent": "curl/8.1"}
    assert not await indented()
    assert await indented(**curl)
    assert await indented("?pretty=1")
    assert await indented(Accept="application/json;pretty=1")
    assert not await indented("?pretty=false", **curl)


async def test_a_page_of_another_site_may_not_write_or_watch(
    server: Server, http: httpx.AsyncClient, policies: str
) -> None:
    evil = {"Origin": "https://evil.example"}
    form = {**evil, "Content-Type": "application/x-www-form-urlencoded"}
    answer = await http.post(policies, json=policy("p"), headers=form)
    assert (answer.status_code, answer.json()["reason"]) == (403, "Forbidden")
    assert (await http.get(f"{policies}/p")).status_code == 404
    url = server.url.replace("http", "ws") + f"{policies}?watch=true"
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, origin=Origin("https://evil.example"), proxy=None)
    assert refused.value.response.status_code == 403
    own = {"Origin": server.url}
    assert (await http.post(policies, json=policy("p"), headers=own)).status_code == 201


SITE = "https://ui.example.com"


async def test_FC06_pages_of_a_site_that_a_flag_names_may_use_it(tmp_path: Path) -> None:
    flag = ("--cors-allowed-origins", r"^http://never$,//(.*\.)?example\.com(:|$)")
    server = Server(tmp_path, "--database-url", "memory:", *flag)
    await server.start()
    policies = f"{ROOT}/namespaces/default/networkpolicys"
    try:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            page = {"Origin": SITE}
            asked = {**page, "Access-Control-Request-Method": "POST"}
            preflight = await http.options(policies, headers=asked)
            assert (preflight.status_code, preflight.content) == (204, b"")
            made = await http.post(policies, json=policy("p"), headers=page)
            assert made.status_code == 201
            missing = await http.get(f"{policies}/none", headers=page)
            assert missing.status_code == 404
            for answer in (preflight, made, missing):
                told = {
                    name.removeprefix("access-control-"): value
                    for name, value in answer.headers.items()
                    if name.startswith("access-control-")
                }
                assert told == {
                    "allow-origin": SITE,
                    "allow-methods": "POST, GET, OPTIONS, PUT, DELETE, PATCH",
                    "allow-headers": "Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token,"
                    " Authorization, X-Requested-With, If-Modified-Since",
                    "expose-headers": "Date, Warning, Retry-After, Audit-Id",
                    "allow-credentials": "true",
                }
                assert answer.headers["vary"] == "Origin"
                assert answer.headers["audit-id"]
            watch = server.url.replace("http", "ws") + f"{policies}?watch=true"
            async with connect(watch, origin=Origin(SITE), proxy=None) as events:
                assert '"ADDED"' in str(await events.recv())
            for other in ("https://example.com.evil.org", "https://evil.org/?//example.com.x"):
                evil = {"Origin": other}
                refused = await http.post(policies, json=policy("q"), headers=evil)
                assert refused.status_code == 403
                assert "access-control-allow-origin" not in refused.headers
                preflight = await http.options(policies, headers={**asked, **evil})
                assert preflight.status_code != 204
            plain = await http.get(policies)
            assert "access-control-allow-origin" not in plain.headers
    finally:
        await server.stop()


def test_FC06_no_origin_takes_long_to_be_judged() -> None:
    (site,) = parse([r"^https://([a-z0-9-]+\.?)+\.example\.com(:|$)"])
    assert site.search("https://a.b.example.com:8443")
    start = time.monotonic()
    for length in (29, 250, 100_000):
        assert not site.search(f"https://{'a' * length}")
    assert time.monotonic() - start < 1


async def test_FC06_what_is_longer_than_a_name_can_be_is_no_origin() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert "cors" not in scope
        passed.append(scope)

    passed: list[Scope] = []
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    cors = Cors(app, parse([r"^https://.*\.example\.com$"]))
    for length, status in ((10, [204]), (300, [])):
        origin = f"https://{'a' * length}.example.com".encode()
        scope = {"type": "http", "method": "OPTIONS", "headers": [(b"origin", origin)]}
        await cors(scope, None, send)  # type: ignore[arg-type]  # nobody receives
        assert [one["status"] for one in sent if "status" in one] == status
        sent.clear()
    assert len(passed) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [("(", "no regular expression"), (r"example\.com", "pin"), (r"//example\.com", "pin")],
)
def test_FC06_an_expression_that_lets_others_in_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"--cors-allowed-origins: .*{why}"):
        Settings(cors_allowed_origins=f"^https://good$,{text}")
