"""What a path and a method ask for (CH-03, CH-04, CH-10, CH-12, CH-13, W-15)."""

import pytest

from apiserver.api import builtin
from apiserver.api.status import StatusError
from apiserver.http.request_info import RequestInfo, by_version, parse

ROOT = "/apis/net.alpha.kubernetes.io/v1alpha1"
POLICIES = builtin.NETWORKPOLICYS
SERVED = by_version(builtin.ALL)


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        ("GET", "/networkpolicys", {}, RequestInfo("list", POLICIES)),
        ("GET", "/namespaces/a/networkpolicys", {}, RequestInfo("list", POLICIES, "a")),
        ("GET", "/namespaces/a/networkpolicys/", {}, RequestInfo("list", POLICIES, "a")),
        ("GET", "/namespace/a/networkpolicys/", {}, RequestInfo("list", POLICIES, "a")),
        ("POST", "/namespaces/a/networkpolicys/", {}, RequestInfo("create", POLICIES, "a")),
        ("GET", "/namespaces/a/networkpolicys/p", {}, RequestInfo("get", POLICIES, "a", "p")),
        ("HEAD", "/namespaces/a/networkpolicys/p", {}, RequestInfo("get", POLICIES, "a", "p")),
        ("PUT", "/namespaces/a/networkpolicys/p", {}, RequestInfo("update", POLICIES, "a", "p")),
        ("PATCH", "/namespaces/a/networkpolicys/p", {}, RequestInfo("patch", POLICIES, "a", "p")),
        ("DELETE", "/namespaces/a/networkpolicys/p", {}, RequestInfo("delete", POLICIES, "a", "p")),
        (
            "DELETE",
            "/namespaces/a/networkpolicys",
            {},
            RequestInfo("deletecollection", POLICIES, "a"),
        ),
        (
            "PUT",
            "/namespaces/a/networkpolicys/p/status",
            {},
            RequestInfo("update", POLICIES, "a", "p", "status"),
        ),
        ("GET", "/networkpolicys", {"watch": "true"}, RequestInfo("watch", POLICIES)),
        ("GET", "/networkpolicys", {"watch": ""}, RequestInfo("watch", POLICIES)),
        ("GET", "/networkpolicys", {"watch": "abc"}, RequestInfo("watch", POLICIES)),
        ("GET", "/networkpolicys", {"watch": "False"}, RequestInfo("list", POLICIES)),
        ("GET", "/networkpolicys", {"watch": "0"}, RequestInfo("list", POLICIES)),
        ("GET", "/watch/networkpolicys", {}, RequestInfo("watch", POLICIES, prefixed=True)),
        (
            "GET",
            "/watch/namespaces/a/networkpolicys",
            {},
            RequestInfo("watch", POLICIES, "a", prefixed=True),
        ),
        (
            "GET",
            "/watch/namespaces/a/networkpolicys/p",
            {},
            RequestInfo("watch", POLICIES, "a", "p", prefixed=True),
        ),
    ],
)
def test_CH03_a_path_names_a_request(
    method: str, path: str, query: dict[str, str], expected: RequestInfo
) -> None:
    assert parse(method, ROOT + path, query, SERVED) == expected


def test_the_short_form_of_the_post_is_the_same_request() -> None:
    short = "/net.alpha.kubernetes.io/v1alpha1/namespace/default/networkpolicys/"
    expected = RequestInfo("list", POLICIES, "default")
    assert parse("GET", short, {}, SERVED) == expected


def test_a_namespace_is_a_resource_of_its_own() -> None:
    expected = RequestInfo("get", builtin.NAMESPACES, "", "networkpolicys")
    assert parse("GET", "/api/v1/namespaces/networkpolicys", {}, SERVED) == expected
    pods = RequestInfo("list", builtin.PODS, "a")
    assert parse("GET", "/api/v1/namespaces/a/pods", {}, SERVED) == pods


@pytest.mark.parametrize(
    "path",
    ["/", "/apis", "/apis/", "/apis/net.alpha.kubernetes.io", ROOT, ROOT + "/", "/api/v1", "/x"],
)
def test_other_paths_are_no_requests_for_a_resource(path: str) -> None:
    assert parse("GET", path, {}, SERVED) is None


def test_CH14_a_head_never_opens_a_stream() -> None:
    found = parse("HEAD", ROOT + "/networkpolicys", {"watch": "true"}, SERVED)
    assert found == RequestInfo("list", POLICIES)


def test_L02_an_empty_namespace_is_all_of_them() -> None:
    found = parse("GET", ROOT + "/namespaces//networkpolicys", {}, SERVED)
    assert found == RequestInfo("list", POLICIES)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", ROOT + "/nonsense", 404),
        ("GET", "/apis/net.alpha.kubernetes.io/v9/networkpolicys", 404),
        ("GET", ROOT + "/namespaces/a/networkpolicys/p/scale", 404),
        ("GET", ROOT + "/namespaces/a//networkpolicys", 404),
        ("POST", ROOT + "/namespaces//networkpolicys", 405),
        ("GET", ROOT + "/namespaces/a/networkpolicys/p/status/x", 404),
        ("GET", ROOT + "/networkpolicys/p", 404),
        ("GET", "/apis/extensions/v1beta1/namespaces/a/thirdpartyresources", 404),
        ("PUT", ROOT + "/namespaces/a/networkpolicys", 405),
        ("PATCH", ROOT + "/namespaces/a/networkpolicys", 405),
        ("POST", ROOT + "/namespaces/a/networkpolicys/p", 405),
        ("POST", ROOT + "/networkpolicys", 405),
        ("DELETE", ROOT + "/networkpolicys", 405),
        ("DELETE", ROOT + "/namespaces/a/networkpolicys/p/status", 405),
        ("TRACE", ROOT + "/namespaces/a/networkpolicys/p", 405),
        ("POST", ROOT + "/watch/networkpolicys", 405),
    ],
)
def test_other_paths_and_methods_are_refused(method: str, path: str, code: int) -> None:
    with pytest.raises(StatusError) as caught:
        parse(method, path, {}, SERVED)
    assert caught.value.code == code
