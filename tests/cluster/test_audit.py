"""The audit log of real servers, in a cluster and alone: rows AU-01 to AU-05."""

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import websockets
from starlette.requests import ClientDisconnect

from apiserver import main
from apiserver.api import latency
from apiserver.api.duration import parse
from apiserver.audit import event
from apiserver.audit import policy as audit_policy
from apiserver.audit.log import Log
from apiserver.audit.outputs import Output
from apiserver.cluster.access import BadAccess
from apiserver.http import audit
from apiserver.http.admission import Admission
from apiserver.http.audit import UNSECURED, Auditor
from apiserver.http.request_info import RequestInfo
from apiserver.registry.strategies import STRATEGIES
from apiserver.settings import Settings
from tests.cluster.conftest import POLICIES, ROOT, Place, Replica, policy
from tests.lab.cluster import POLICIES as ALONE
from tests.lab.processes import Server
from tests.storage.etcd_cluster import EtcdServer

RULES = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitManagedFields: true
rules:
- level: None
  nonResourceURLs: ["/readyz*", "/metrics"]
- level: None
  users: [admin]
  verbs: [list]
- level: Metadata
  users: [bob]
- level: RequestResponse
  userGroups: ["team, a"]
  resources: [{group: net.alpha.kubernetes.io, resources: [networkpolicys]}]
- level: Request
  users: [admin]
  omitStages: [RequestReceived]
- level: Metadata
"""
ALL = """
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: RequestResponse
"""
SECRETS = ("editor-token", "bob-token", "admin-token", "patcher-token", "no-such-token")
DONE = "ResponseComplete"


@dataclass
class Audited:
    """A server of the cluster, and what it wrote down."""

    place: Place
    replica: Replica
    log: Path

    def client(self, token: str) -> httpx.AsyncClient:
        return self.place.client(self.replica, token=token)

    async def events(self, answer: httpx.Response, last: str = DONE) -> list[dict[str, Any]]:
        return await events_of(self.log, answer.headers["audit-id"], last)


async def events_of(log: Path, audit_id: str, last: str = DONE) -> list[dict[str, Any]]:
    """The events of one request, once its last one is there."""
    async with asyncio.timeout(10):
        while True:
            lines = log.read_text().splitlines(keepends=True) if log.exists() else []
            found = [json.loads(line) for line in lines if line.endswith("\n")]
            found = [event for event in found if event["auditID"] == audit_id]
            if found and found[-1]["stage"] == last:
                return found
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
async def audited(
    tmp_path_factory: pytest.TempPathFactory, own_etcd: EtcdServer
) -> AsyncIterator[Audited]:
    folder = tmp_path_factory.mktemp("audit")
    (folder / "policy.yaml").write_text(RULES)
    place = Place(folder)
    log = folder / "audit.log"
    replica = Replica(
        place, "audited", "--etcd-servers", own_etcd.endpoint,
        "--audit-policy-file", str(folder / "policy.yaml"), "--audit-log-path", str(log),
    )  # fmt: skip
    try:
        await place.start()
        await replica.start()
        await replica.until_ready()
        yield Audited(place, replica, log)
    finally:
        for process in (replica, place.standin):
            if process is not None and process.running:
                await process.kill()
    text = log.read_text()
    assert not [secret for secret in SECRETS if secret in text]


async def test_a_create_with_all_that_the_level_asks_for(audited: Audited, name: str) -> None:
    agent = {"User-Agent": "kubectl/v1.32", "X-Forwarded-For": "10.9.8.7"}
    posted = policy(name)
    async with audited.client("editor-token") as http:
        answer = await http.post(f"{POLICIES}?pretty=1", json=posted, headers=agent)
        assert answer.status_code == 201, answer.text
        received, complete = await audited.events(answer)
    stored = answer.json()
    del stored["metadata"]["managedFields"]
    assert list(received) == [
        "kind", "apiVersion", "level", "auditID", "stage", "requestURI", "verb", "user",
        "sourceIPs", "userAgent", "objectRef", "requestReceivedTimestamp", "stageTimestamp",
    ]  # fmt: skip
    assert received["stage"] == "RequestReceived"
    assert received["stageTimestamp"] == received["requestReceivedTimestamp"]
    assert received["objectRef"] == {
        "resource": "networkpolicys",
        "namespace": "team-a",
        "apiGroup": "net.alpha.kubernetes.io",
        "apiVersion": "v1alpha1",
    }
    assert complete["stageTimestamp"] > complete["requestReceivedTimestamp"]
    for key in ("stageTimestamp", "requestReceivedTimestamp"):
        del complete[key]
    assert complete == {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "RequestResponse",
        "auditID": answer.headers["audit-id"],
        "stage": DONE,
        "requestURI": f"{POLICIES}?pretty=1",
        "verb": "create",
        "user": {
            "username": "editor",
            "uid": "uid-of-editor",
            "groups": ["people", "team, a", "system:authenticated"],
            "extra": {"example.com/scopes": ["a", "b"]},
        },
        "sourceIPs": ["10.9.8.7", "127.0.0.1"],
        "userAgent": "kubectl/v1.32",
        "objectRef": {**received["objectRef"], "name": name},
        "responseStatus": {"metadata": {}, "code": 201},
        "requestObject": posted,
        "responseObject": stored,
        "annotations": {
            "authorization.k8s.io/decision": "allow",
            "authorization.k8s.io/reason": "",
        },
    }


async def test_patches_lists_and_deletes(audited: Audited, name: str) -> None:
    async with audited.client("editor-token") as http:
        assert (await http.post(POLICIES, json=policy(name))).status_code == 201
        change = {"metadata": {"labels": {"a": "b"}}}
        media = {"Content-Type": "application/merge-patch+json"}
        patched = await http.patch(f"{POLICIES}/{name}", json=change, headers=media)
        last = (await audited.events(patched))[-1]
        assert last["verb"] == "patch"
        assert last["requestObject"] == change
        assert last["responseObject"]["metadata"]["labels"] == {"a": "b"}
        applied = await http.patch(
            f"{POLICIES}/{name}", params={"fieldManager": "me"},
            headers={"Content-Type": "application/apply-patch+yaml", "Accept": "application/yaml"},
            content=f"apiVersion: net.alpha.kubernetes.io/v1alpha1\nkind: NetworkPolicy\n"
            f"metadata: {{name: {name}}}\n",
        )  # fmt: skip
        assert applied.status_code == 200, applied.text
        last = (await audited.events(applied))[-1]
        assert last["requestObject"]["metadata"] == {"name": name}
        assert last["responseObject"]["metadata"]["name"] == name
        table = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
        whole = {"includeObject": "Object"}
        listed = await http.get(POLICIES, headers=table, params=whole)
        assert "managedFields" in listed.text
        last = (await audited.events(listed))[-1]
        assert last["responseObject"]["kind"] == "Table"
        assert "managedFields" not in json.dumps(last)
        assert "requestObject" not in last
        options = {"propagationPolicy": "Background"}
        deleted = await http.request("DELETE", f"{POLICIES}/{name}", json=options)
        last = (await audited.events(deleted))[-1]
        assert last["requestObject"] == options
        assert last["responseStatus"]["status"] == "Success"
        assert last["responseStatus"]["details"]["name"] == name
        missing = await http.get(f"{POLICIES}/{name}")
        last = (await audited.events(missing))[-1]
        assert last["responseObject"] == missing.json()
        assert last["responseStatus"] == {
            "metadata": {},
            "status": "Failure",
            "message": f'networkpolicys.net.alpha.kubernetes.io "{name}" not found',
            "reason": "NotFound",
            "details": missing.json()["details"],
            "code": 404,
        }


async def test_what_a_lower_level_leaves_out(audited: Audited, name: str) -> None:
    async with audited.client("admin-token") as http:
        made = await http.post(POLICIES, json=policy(name))
        (event,) = await audited.events(made)  # its rule leaves RequestReceived out
        assert event["level"] == "Request"
        assert event["requestObject"] == policy(name)
        assert "responseObject" not in event
        meta = made.json()["metadata"]
        body = {**policy(name), "metadata": meta}
        (event,) = await audited.events(await http.put(f"{POLICIES}/{name}", json=body))
        told = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        assert event["objectRef"] == {**event["objectRef"], "name": name, **told}
        assert "managedFields" not in event["requestObject"]["metadata"]
        await http.get(POLICIES)
        gone = await http.delete(f"{POLICIES}/{name}")
        await audited.events(gone)
    text = audited.log.read_text()
    assert not [1 for line in text.splitlines() if '"list"' in line and '"admin"' in line]


async def test_AU04_a_refusal_is_written_down(audited: Audited) -> None:
    async with audited.client("bob-token") as http:
        for answer in (await http.get(f"{POLICIES}/x"), await http.get(f"{POLICIES}?watch=1")):
            assert answer.status_code == 403
            last = (await audited.events(answer))[-1]
            assert last["level"] == "Metadata"
            assert last["responseStatus"]["reason"] == "Forbidden"
            assert last["responseStatus"]["message"] == answer.json()["message"]
            assert last["annotations"] == {
                "authorization.k8s.io/decision": "forbid",
                "authorization.k8s.io/reason": "RBAC: there is no rule for it",
            }
        answer = await http.put(POLICIES)  # a method that the path does not take
        assert (await audited.events(answer))[-1]["responseStatus"]["code"] == answer.status_code


async def test_AU05_a_stranger_is_written_down_without_the_token(audited: Audited) -> None:
    async with audited.client("no-such-token") as http:
        answer = await http.get(f"{POLICIES}/x")
    assert answer.status_code == 401
    (event,) = await audited.events(answer, "ResponseStarted")
    assert event["user"] == {}
    assert event["responseStatus"] == {
        "metadata": {},
        "message": "Authentication failed, attempted: bearer",
        "code": 401,
    }


async def test_AU03_a_watch_has_a_stage_more(audited: Audited) -> None:
    async with (
        audited.client("editor-token") as http,
        http.stream("GET", POLICIES, params={"watch": "1"}) as answer,
    ):
        received, started = await audited.events(answer, "ResponseStarted")
        assert received["stage"] == "RequestReceived"
        assert started["verb"] == "watch"
        assert started["responseStatus"] == {"metadata": {}, "code": 200}
        await answer.aclose()
        *_, complete = await audited.events(answer)
    assert complete["responseStatus"]["code"] == 200
    assert "responseObject" not in complete


async def test_a_request_id_of_the_aggregator_is_kept_and_counted(audited: Audited) -> None:
    async with audited.client("admin-token") as http:
        answer = await http.get(ROOT, headers={"Audit-ID": "of-the-aggregator"})
        (event,) = await events_of(audited.log, "of-the-aggregator")
        assert answer.headers["audit-id"] == event["auditID"]
        assert "objectRef" not in event
        assert "requestObject" not in event
        metrics = (await http.get("/metrics")).text
    assert 'apiserver_audit_error_total{plugin="log"} 0.0' in metrics
    assert 'apiserver_audit_level_total{level="None"}' in metrics
    assert "apiserver_audit_event_total 0.0" not in metrics


def alone(folder: Path, log: str, *arguments: str, rules: str = ALL) -> Server:
    (folder / "policy.yaml").write_text(rules)
    return Server(
        folder, "--database-url", "memory:", "--audit-policy-file", str(folder / "policy.yaml"),
        "--audit-log-path", log, *arguments,
    )  # fmt: skip


async def test_alone_everybody_is_unsecured_and_full_files_are_put_aside(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    server = alone(tmp_path, str(log), "--audit-log-maxsize", "1", "--audit-log-maxbackup", "1")
    await server.start()
    path = f"{ALONE}/namespaces/default/networkpolicys"
    try:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20) as http:
            answer = await http.get(f"{path}/none")
            last = (await events_of(log, answer.headers["audit-id"]))[-1]
            assert last["user"] == {
                "username": "system:unsecured",
                "groups": ["system:masters", "system:authenticated"],
            }
            assert "annotations" not in last  # nobody was asked for a permission
            large = {"annotations": {"a": "x" * 250_000}}
            for number in range(5):
                body = policy(f"p-{number}")
                body["metadata"] |= large
                assert (await http.post(path, json=body)).status_code == 201
            found = await http.get(f"{path}/p-0")
            assert found.headers["content-encoding"] == "gzip"
            last = (await events_of(log, found.headers["audit-id"]))[-1]
            assert last["responseObject"] == found.json()
            uri = f"{server.url.replace('http', 'ws')}{path}?watch=1"
            async with websockets.connect(uri, proxy=None, additional_headers={"Audit-ID": "ws"}):
                (_, started) = await events_of(log, "ws", "ResponseStarted")
                assert started["responseStatus"]["code"] == 101
            refused = await http.post(path, headers={"Origin": "http://evil.example"})
            assert refused.status_code == 403
    finally:
        # What is not written yet is written now.
        assert await server.stop() == 0
    last = (await events_of(log, refused.headers["audit-id"]))[-1]
    assert last["responseStatus"]["code"] == 403
    files = sorted(tmp_path.glob("audit*.log"))
    assert len(files) == 2
    for file in files:
        assert file.stat().st_size <= 1 << 20
        for line in file.read_text().splitlines():
            assert json.loads(line)["kind"] == "Event"


async def test_a_disk_that_is_full_stops_no_request(tmp_path: Path) -> None:
    server = alone(tmp_path, "/dev/full", "--audit-log-format", "legacy")
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20) as http:
            assert (await http.get("/version")).status_code == 200
            await server.until("audit events are lost")
            text = (await http.get("/metrics")).text
        (count,) = re.findall(r'^apiserver_audit_error_total{plugin="log"} (.+)', text, re.M)
        assert float(count) > 0
    finally:
        assert await server.stop() == 0


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    (tmp_path / "policy.yaml").write_text(ALL)
    return tmp_path / "policy.yaml"


async def test_to_standard_output_as_text(rules: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = Settings(
        standalone=True, audit_policy_file=rules, audit_log_path="-", audit_log_format="legacy"
    )
    auditor = main.auditor(settings)
    assert auditor is not None
    await follow(auditor)
    assert [line.split()[1] for line in capfd.readouterr().out.splitlines()] == ["AUDIT:"] * 2


def test_a_policy_or_a_path_alone_audits_nothing(rules: Path, tmp_path: Path) -> None:
    for settings in (
        Settings(),
        Settings(audit_policy_file=rules),
        Settings(audit_log_path=str(tmp_path / "audit.log")),
    ):
        assert main.auditor(settings) is None
    assert not (tmp_path / "audit.log").exists()


def test_a_policy_that_is_wrong_ends_the_server(rules: Path) -> None:
    rules.write_text(ALL.replace("RequestResponse", "Most"))
    with pytest.raises(BadAccess, match=r'policy\.yaml: rules\[0\]\.level: Invalid value: "Most"'):
        main.auditor(Settings(audit_policy_file=rules, audit_log_path="-"))


class Lines:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    def close(self) -> None:
        pass


async def nothing(*ignored: Any) -> Any: ...


def asked() -> dict[str, Any]:
    """The scope of a request, as the envelope has filled it in."""
    return {
        "type": "http", "method": "GET", "path": "/x", "query_string": b"", "query": {},
        "fields": {}, "audit": b"id", "send_body": None,
    }  # fmt: skip


async def follow(auditor: Auditor, error: Exception | None = None) -> None:
    """One request from its start to its end."""
    trail = auditor.follow(asked(), nothing, nothing)
    trail.begin()
    if error is not None:
        trail.failed(error)
    trail.end()
    await auditor.close()


def into(sink: Lines) -> Auditor:
    rules = audit_policy.parse(ALL.encode(), "policy.yaml")
    return Auditor(rules, [Output(Log(sink), event.as_json)], user=UNSECURED)


async def last_of(error: Exception) -> dict[str, Any]:
    sink = Lines()
    await follow(into(sink), error)
    found: dict[str, Any] = json.loads(sink.data.splitlines()[-1])
    return found


SMALL, LARGE = b'{"kind":"List"}', b'{"kind":"%s"}' % (b"x" * 100)
ZIPPED = [(b"content-encoding", b"gzip")]


@pytest.mark.parametrize(
    ("body", "headers", "kept"),
    [
        (SMALL, [], True),
        (gzip.compress(SMALL, mtime=0), ZIPPED, True),
        (LARGE, [], False),
        (gzip.compress(LARGE, mtime=0), ZIPPED, False),
    ],
)
async def test_an_answer_that_is_too_large_is_left_out(
    body: bytes, headers: Any, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "BODY_LIMIT", 60)
    sink = Lines()
    auditor = into(sink)
    policies = next(strategy.resource for strategy in STRATEGIES if strategy.resource.group)
    scope = {**asked(), "request_info": RequestInfo("list", policies)}
    trail = auditor.follow(scope, nothing, nothing)
    trail.begin()
    await trail.send({"type": "http.response.start", "status": 200, "headers": headers})
    for part in (body[:9], body[9:]):
        await trail.send({"type": "http.response.body", "body": part})
    trail.end()
    await auditor.close()
    last = json.loads(sink.data.splitlines()[-1])
    assert last.get("responseObject") == (json.loads(SMALL) if kept else None)
    assert last.get("annotations") == (None if kept else {"audit.k8s.io/truncated": "true"})


async def test_an_error_that_nobody_foresaw_is_a_panic() -> None:
    last = await last_of(ZeroDivisionError("division by zero"))
    assert last["stage"] == "Panic"
    assert last["responseStatus"] == {
        "metadata": {},
        "status": "Failure",
        "message": "APIServer panic'd: division by zero",
        "reason": "InternalError",
        "code": 500,
    }


async def test_a_client_that_left_before_an_answer_is_none() -> None:
    last = await last_of(ClientDisconnect())
    assert last["stage"] == DONE
    assert last["responseStatus"]["message"] == "Connection closed early"


async def test_what_webhooks_annotate_stands_in_the_event() -> None:
    said: dict[str, str] = {}

    class Plugins:
        """Webhooks that answer later."""

        async def concerning(self, *ignored: Any, **options: Any) -> Any:
            return SimpleNamespace(annotations=said, warnings=[])

    policies = next(strategy.resource for strategy in STRATEGIES if strategy.resource.group)
    info = RequestInfo("create", policies)
    sink = Lines()
    auditor = into(sink)
    scope = {**asked(), "request_info": info, "user": UNSECURED}
    trail = auditor.follow(scope, nothing, nothing)
    trail.begin()
    await Admission(cast(Any, Plugins())).reviewing(
        scope, info, "CreateOptions", dry_run=False, count=int
    )
    said["label.example.com/why"] = "because"
    trail.end()
    await auditor.close()
    first, last = (json.loads(line) for line in sink.data.splitlines())
    assert "annotations" not in first
    assert last["annotations"] == {"label.example.com/why": "because"}


async def test_AU04_a_slow_request_tells_where_its_time_went() -> None:
    for total, told in ((0.5, False), (1.25, True)):
        sink, moments = Lines(), iter((100.0, 100.0 + total))
        rules = audit_policy.parse(ALL.encode(), "policy.yaml")
        outputs = [Output(Log(sink), event.as_json)]
        auditor = Auditor(rules, outputs, user=UNSECURED, clock=moments.__next__)
        trail = auditor.follow(asked(), nothing, nothing)
        trail.begin()
        latency.spent("etcd", 0.25)
        latency.spent("etcd", 0.0625)
        trail.end()
        await auditor.close()
        last = json.loads(sink.data.splitlines()[-1])
        expected = {
            "apiserver.latency.k8s.io/etcd": "312.5ms",
            "apiserver.latency.k8s.io/total": "1.25s",
        }
        assert last.get("annotations") == (expected if told else None)


async def test_AU04_where_the_cluster_cannot_be_asked_the_reason_says_so(
    tmp_path: Path, own_etcd: EtcdServer
) -> None:
    (tmp_path / "policy.yaml").write_text(ALL)
    place, log = Place(tmp_path), tmp_path / "audit.log"
    replica = Replica(
        place, "alone", "--etcd-servers", own_etcd.endpoint,
        "--audit-policy-file", str(tmp_path / "policy.yaml"), "--audit-log-path", str(log),
    )  # fmt: skip
    try:
        await place.start()
        await replica.start()
        await replica.until_ready()
        assert place.standin is not None
        await place.standin.kill()
        async with place.client(replica, place.certificates.user("editor")) as http:
            answer = await http.get(POLICIES)
        assert answer.status_code == 503
        last = (await events_of(log, answer.headers["audit-id"]))[-1]
        assert last["responseStatus"]["code"] == 503
        annotations = last["annotations"]
        assert annotations.pop("authorization.k8s.io/reason") == "internal error"
        # It was tried again for a while.
        spent = {name.partition("/")[2]: parse(text) for name, text in annotations.items()}
        assert spent.keys() == {"authentication", "authorization", "total"}
        assert 1 < spent["authorization"] <= spent["total"]
    finally:
        for process in (replica, place.standin):
            if process is not None and process.running:
                await process.kill()
