"""Audit events sent to a webhook by a real server, and requests that wait for theirs."""

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from apiserver import main
from apiserver.cluster.access import BadAccess
from apiserver.http.watch import PARTING
from apiserver.settings import Settings
from tests.lab.cluster import POLICIES as ALONE
from tests.lab.processes import Server

PATH = f"{ALONE}/namespaces/default/networkpolicys"
RULES = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted]
rules:
- level: None
  nonResourceURLs: ["/readyz*", "/metrics"]
- level: None
  resources: [{group: "", resources: [namespaces]}]
- level: RequestResponse
"""


class Receiver(ThreadingHTTPServer):
    """Collects events; answers with `code`, once `open` is set. Of all stages, or of one."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.code = 200
        self.open = threading.Event()
        self.open.set()
        self.stage: str | None = None
        self.lists: list[dict[str, Any]] = []
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        authority.cert_pem.write_to_path(folder / "there.pem")
        there = f"https://127.0.0.1:{self.server_address[1]}/collect/here"
        config = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [
                {"name": "c", "cluster": {"server": there, "certificate-authority": "there.pem"}}
            ],
            "users": [{"name": "u", "user": {"token": "of-the-webhook"}}],
        }
        (folder / "webhook.kubeconfig").write_text(json.dumps(config))
        (folder / "policy.yaml").write_text(RULES)
        self.flags = (
            *("--audit-policy-file", str(folder / "policy.yaml")),
            *("--audit-webhook-config-file", str(folder / "webhook.kubeconfig")),
            *("--audit-webhook-initial-backoff", "10ms"),
        )

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for found in self.lists for event in found["items"]]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.events) < count:
                await asyncio.sleep(0.01)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Receiver)
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if server.stage in (None, body["items"][-1]["stage"]):
            server.open.wait(20)
        code = server.code
        if (self.path, self.headers["authorization"]) != ("/collect/here", "Bearer of-the-webhook"):
            code = 403
        if code == 200:
            server.lists.append(body)
        self.send_response(code)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *ignored: Any) -> None:
        pass


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    made = Receiver(tmp_path)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.open.set()
    made.shutdown()
    thread.join()
    made.server_close()


def serving(folder: Path, receiver: Receiver, *more: str) -> Server:
    return Server(folder, "--database-url", "memory:", *receiver.flags, *more)


def client(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20)


def policy(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {}}


async def test_AU01_events_are_sent_in_batches_and_the_last_at_the_end(
    tmp_path: Path, receiver: Receiver
) -> None:
    log = tmp_path / "audit.log"
    server = serving(
        tmp_path, receiver, "--audit-webhook-batch-max-size", "4", "--audit-log-path", str(log)
    )
    await server.start()
    try:
        async with client(server) as http:
            answers = [await http.post(PATH, json=policy(f"p-{n}")) for n in range(5)]
        await receiver.until(8)
        assert [len(found["items"]) for found in receiver.lists] == [4, 4]
    finally:
        assert await server.stop() == 0
    assert sorted(len(found["items"]) for found in receiver.lists) == [2, 4, 4]
    for found in receiver.lists:
        assert found["kind"] == "EventList"
        assert found["apiVersion"] == "audit.k8s.io/v1"
    written = [json.loads(line) for line in log.read_text().splitlines()]
    for event in written:
        assert (event.pop("kind"), event.pop("apiVersion")) == ("Event", "audit.k8s.io/v1")
    of = {answer.headers["audit-id"]: answer for answer in answers}
    assert receiver.events == [event for event in written if event["auditID"] in of]
    assert receiver.events[1]["responseObject"] == answers[0].json()


async def test_a_webhook_that_hangs_stops_no_request_and_costs_events(
    tmp_path: Path, receiver: Receiver
) -> None:
    receiver.open.clear()
    flags = ("--audit-webhook-batch-max-size", "2", "--audit-webhook-batch-buffer-size", "6")
    server = serving(tmp_path, receiver, *flags)
    await server.start()
    try:
        async with client(server) as http:
            async with asyncio.timeout(5):
                for number in range(10):
                    answer = await http.post(PATH, json=policy(f"p-{number}"))
                    assert answer.status_code == 201
            text = (await http.get("/metrics")).text
            assert 'apiserver_audit_error_total{plugin="webhook"} 14.0' in text
            receiver.open.set()
            await receiver.until(6)
    finally:
        assert await server.stop() == 0


async def test_a_webhook_that_is_away_gets_the_events_when_it_is_back(
    tmp_path: Path, receiver: Receiver
) -> None:
    receiver.code = 503
    server = serving(tmp_path, receiver, "--audit-webhook-initial-backoff", "1s")
    await server.start()
    try:
        async with client(server) as http:
            assert (await http.post(PATH, json=policy("p"))).status_code == 201
        receiver.code = 200
    finally:
        assert await server.stop() == 0
    assert [event["stage"] for event in receiver.events] == ["RequestReceived", "ResponseComplete"]


async def test_where_requests_wait_an_answer_means_that_its_events_are_there(
    tmp_path: Path, receiver: Receiver
) -> None:
    log = tmp_path / "audit.log"
    waiting = ("--audit-log-path", str(log), "--audit-log-mode", "blocking")
    server = serving(tmp_path, receiver, "--audit-webhook-mode", "blocking", *waiting)
    await server.start()
    try:
        async with client(server) as http:
            for number in range(20):
                answer = await http.post(PATH, json=policy(f"p-{number}"))
                assert answer.status_code == 201
                last = receiver.events[-1]
                assert last["auditID"] == answer.headers["audit-id"]
                assert last["stage"] == "ResponseComplete"
                assert last["responseObject"] == answer.json()
                assert json.loads(log.read_text().splitlines()[-1])["auditID"] == last["auditID"]
            receiver.code = 500  # a failure is counted, and the request is done
            assert (await http.get(PATH)).status_code == 200
            async with http.stream("GET", PATH, params={"watch": "1", "timeoutSeconds": "1"}) as it:
                assert len([line async for line in it.aiter_lines()]) == 20
            text = (await http.get("/metrics")).text
            assert 'apiserver_audit_error_total{plugin="webhook"} 0.0' not in text
    finally:
        assert await server.stop() == 0


async def test_where_requests_wait_nothing_is_complete_before_its_last_event(
    tmp_path: Path, receiver: Receiver
) -> None:
    receiver.stage = "ResponseComplete"
    server = serving(tmp_path, receiver, "--audit-webhook-mode", "blocking")
    await server.start()
    try:
        async with client(server) as http:
            for number in range(3):
                assert (await http.post(PATH, json=policy(f"p-{number}"))).status_code == 201
            yaml = {"Accept": "application/yaml"}
            for asked in (
                http.build_request("POST", PATH, json=policy("p")),
                http.build_request("GET", PATH),
                http.build_request("GET", PATH, headers=yaml),
                http.build_request("GET", f"{PATH}/p"),
                http.build_request("GET", f"{PATH}/none"),
            ):
                before = len(receiver.lists)
                receiver.open.clear()
                asking = asyncio.create_task(http.send(asked))
                done, _ = await asyncio.wait({asking}, timeout=0.3)
                assert not done
                assert len(receiver.lists) == before + 1
                receiver.open.set()
                answer = await asking
                assert receiver.events[-1]["responseStatus"]["code"] == answer.status_code
                assert receiver.events[-1]["auditID"] == answer.headers["audit-id"]
    finally:
        assert await server.stop() == 0


async def test_what_waits_too_long_for_its_last_event_is_told_so(
    tmp_path: Path, receiver: Receiver
) -> None:
    receiver.stage = "ResponseComplete"
    flags = ("--audit-webhook-mode", "blocking", "--request-timeout", "500ms")
    server = serving(tmp_path, receiver, *flags)
    await server.start()
    try:
        async with client(server) as http:
            receiver.open.clear()
            answer = await http.post(PATH, json=policy("p"))
            assert (answer.status_code, answer.json()["reason"]) == (504, "Timeout")
            receiver.stage = "RequestReceived"
            assert (await http.post(PATH, json=policy("q"))).status_code == 504
            receiver.open.set()
            assert (await http.get(f"{PATH}/p")).status_code == 200
            assert (await http.get(f"{PATH}/q")).status_code == 404
    finally:
        assert await server.stop() == 0


async def test_a_watch_whose_last_event_takes_long_ends_cleanly(
    tmp_path: Path, receiver: Receiver
) -> None:
    receiver.stage = "ResponseComplete"
    server = serving(tmp_path, receiver, "--audit-webhook-mode", "blocking")
    await server.start()
    try:
        async with client(server) as http:
            assert (await http.post(PATH, json=policy("p"))).status_code == 201
            receiver.open.clear()
            query = {"watch": "1", "timeoutSeconds": "1"}
            watching = asyncio.create_task(http.get(PATH, params=query))
            done, _ = await asyncio.wait({watching}, timeout=1 + PARTING + 1)
            assert not done
            receiver.open.set()
            assert (await watching).text.count("ADDED") == 1
            assert receiver.events[-1]["verb"] == "watch"
    finally:
        assert await server.stop() == 0
    assert "without completing response" not in server.log.read_text()


async def test_where_events_must_be_kept_a_request_without_is_refused(
    tmp_path: Path, receiver: Receiver
) -> None:
    server = serving(tmp_path, receiver, "--audit-webhook-mode", "blocking-strict")
    await server.start()
    try:
        async with client(server) as http:
            assert (await http.post(PATH, json=policy("one"))).status_code == 201
            receiver.code = 500
            refused = await http.post(PATH, json=policy("two"))
            assert refused.status_code == 500
            assert "failed to store audit event" in refused.json()["message"]
            receiver.code = 200
            assert (await http.get(f"{PATH}/two")).status_code == 404
            text = (await http.get("/metrics")).text
            assert "apiserver_audit_requests_rejected_total 1.0" in text
    finally:
        assert await server.stop() == 0


async def test_a_webhook_that_is_not_described_ends_the_server(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(RULES)
    settings = Settings(
        audit_policy_file=tmp_path / "policy.yaml", audit_webhook_config_file=tmp_path / "none"
    )
    with pytest.raises(BadAccess, match="No such file"):
        main.auditor(settings)


@pytest.mark.parametrize("flag", ["audit_log_mode", "audit_webhook_mode"])
def test_an_unknown_mode_is_refused(flag: str) -> None:
    with pytest.raises(ValueError, match="'batch', 'blocking' or 'blocking-strict'"):
        Settings.model_validate({flag: "sometimes"})
