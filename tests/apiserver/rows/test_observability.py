"""Sections 3 and 4: probes and metrics."""

import asyncio
import re
import signal
from functools import partial
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as families

from tests.apiserver.test_apply import APPLY, HEAD
from tests.apiserver.test_resources import create, watching
from tests.lab.processes import Server
from tests.storage.etcd_cluster import EtcdServer


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_H01_H08_a_probe_says_ok(http: httpx.AsyncClient, path: str, method: str) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == 200
    assert answer.content == (b"" if method == "HEAD" else b"ok")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_H03_H04_H05_H06_a_probe_tells_its_checks(http: httpx.AsyncClient) -> None:
    ready = (await http.get("/readyz?verbose")).text
    names = ["ping", "storage", "informer-sync", "shutdown"]
    assert ready == "".join(f"[+]{name} ok\n" for name in names) + "readyz check passed\n"
    excluded = (await http.get("/livez?verbose&exclude=ping&exclude=zz")).text
    assert excluded == (
        "[+]ping excluded: ok\n"
        'warn: some health checks cannot be excluded: no matches for "zz"\n'
        "livez check passed\n"
    )
    assert (await http.get("/livez/ping")).text == "ok"
    assert (await http.get("/livez/zz")).status_code == 404


async def test_H02_H06_H09_a_failing_check_is_named_and_its_reason_is_not(
    on_etcd: tuple[Server, EtcdServer],
) -> None:
    server, etcd = on_etcd
    etcd.kill()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        answer = await http.get("/readyz")
        assert answer.status_code == 500
        assert "[-]etcd failed: reason withheld\n" in answer.text
        assert answer.text.endswith("readyz check failed\n")
        assert (await http.get("/livez")).text == "ok"
        written = await http.post(
            "/api/v1/namespaces", json={"kind": "Namespace", "metadata": {"name": "x"}}, timeout=40
        )
        assert written.status_code in (503, 504)
        assert written.json()["reason"] in ("ServiceUnavailable", "Timeout")


async def test_H07_FC05_the_server_ends_in_order(tmp_path: Path) -> None:
    server = Server(tmp_path, "--database-url", "memory:", "--shutdown-delay-duration", "1s")
    await server.start()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        watch = asyncio.create_task(http.get("/api/v1/namespaces?watch=1&resourceVersion=4"))
        while "WATCH" not in (await http.get("/metrics")).text:
            await asyncio.sleep(0.01)
        server.send_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            while (await http.get("/readyz")).status_code == 200:
                await asyncio.sleep(0.01)
        assert (await http.get("/livez")).text == "ok"
        served = await http.get("/api/v1/namespaces")
        assert served.status_code == 200
        assert served.headers["connection"] == "close"
        assert not watch.done()
        assert (await watch).status_code == 200  # its end is clean, or this would raise
    assert await server.wait() == 0


async def test_MT01_metrics_are_what_prometheus_reads(http: httpx.AsyncClient) -> None:
    answer = await http.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert {family.name for family in families(answer.text)} >= {
        "apiserver_request",
        "apiserver_request_duration_seconds",
        "process_cpu_seconds",
    }
    asked = {"Accept": "application/openmetrics-text; version=1.0.0"}
    answer = await http.get("/metrics", headers=asked)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert list(openmetrics(answer.text))  # type: ignore[no-untyped-call]


async def test_MT02_MT03_MT04_requests_and_watches_are_counted(
    http: httpx.AsyncClient, policies: str
) -> None:
    await create(http, policies, "p")
    await http.get(f"{policies}/none")
    await http.patch(
        f"{policies}/q",
        json={**HEAD, "spec": {}},
        headers=APPLY,
        params={"fieldManager": "m", "dryRun": "All"},
    )
    async with watching(http, policies) as event:
        await event()
        text = (await http.get("/metrics")).text
    value = partial(metric, text)
    total = "apiserver_request_total"
    assert value(total, 'verb="POST"', 'code="201"', 'scope="resource"', 'version="v1alpha1"') > 0
    assert value(total, 'verb="GET"', 'code="404"', 'component="apiserver"') > 0
    assert value(total, 'verb="APPLY"', 'dry_run="All"') > 0
    assert value("apiserver_request_duration_seconds_count", 'verb="POST"') > 0
    assert value("apiserver_request_sli_duration_seconds_count", 'verb="POST"') > 0
    assert value("apiserver_longrunning_requests", 'verb="WATCH"') == 1
    assert value("apiserver_watch_events_total") > 0
    assert value("apiserver_watch_events_sizes_count") > 0
    assert re.search(r"apiserver_current_inflight_requests\{request_kind=.mutating.\} 0", text)


async def test_MT06_MT07_the_store_and_its_cache_are_counted(
    http: httpx.AsyncClient, policies: str
) -> None:
    made = await create(http, policies, "p")
    await http.get(policies)
    await http.delete(f"{policies}/p")
    await create(http, policies, "p")
    value = partial(metric, (await http.get("/metrics")).text)
    for operation in ("create", "delete", "get"):
        label = f'operation="{operation}"'
        assert value("etcd_requests_total", label) > 0
        assert value("etcd_request_duration_seconds_count", label) > 0
        assert value("etcd_request_errors_total", label) == 0
    assert value("apiserver_resource_objects") > 0
    assert value("apiserver_storage_undecodable_objects") == 0
    written = int(made["metadata"]["resourceVersion"])
    assert value("apiserver_watch_cache_resource_version") >= written + 2
    assert value("apiserver_watch_cache_events_received_total") >= 3
    assert value("apiserver_watch_cache_events_kept") >= 3
    assert value("apiserver_watch_cache_consistent_read_total", 'success="true"') > 0


def metric(text: str, name: str, *labels: str) -> float:
    """The value of a series of our resource; 0 where there is none."""
    for line in text.splitlines():
        wanted = ('resource="networkpolicys"', *labels)
        if line.startswith(name + "{") and all(label in line for label in wanted):
            return float(line.rpartition(" ")[2])
    return 0
