"""What an audit policy says of a request, how an event is worded, and how the log rotates."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from apiserver.audit import event, policy
from apiserver.audit.log import Log
from apiserver.audit.rotation import RotatingFile
from apiserver.auth.attributes import Attributes
from apiserver.auth.user import ANONYMOUS, User

GROUP = "net.alpha.kubernetes.io"
ALICE = User("alice", groups=("people", "system:authenticated"))


def resource(verb: str = "get", **other: Any) -> Attributes:
    named: dict[str, Any] = {
        "namespace": "team-a",
        "group": GROUP,
        "resource": "networkpolicys",
        "name": "web",
    }
    return Attributes(verb, version="v1alpha1", **{**named, **other})


def path(text: str) -> Attributes:
    return Attributes("get", path=text)


def read(**fields: Any) -> policy.Policy:
    whole = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", **fields}
    return policy.parse(orjson.dumps(whole), "policy.yaml")


POLICYS = {"group": GROUP, "resources": ["networkpolicys"]}


@pytest.mark.parametrize(
    ("rule", "matching", "other"),
    [
        ({}, [(ALICE, resource()), (None, path("/x"))], []),
        ({"users": ["alice"]}, [(ALICE, resource())], [(ANONYMOUS, resource()), (None, path("/"))]),
        ({"userGroups": ["a", "people"]}, [(ALICE, path("/"))], [(ANONYMOUS, path("/"))]),
        ({"userGroups": ["people"]}, [], [(None, path("/"))]),
        (
            {"verbs": ["get"]},
            [(ALICE, resource()), (ALICE, path("/"))],
            [(ALICE, resource("list"))],
        ),
        (
            {"resources": [POLICYS]},
            [(ALICE, resource())],
            [
                (ALICE, resource(subresource="status")),
                (ALICE, resource(group="")),
                (ALICE, path("/apis")),
            ],
        ),
        (
            {"resources": [{"group": GROUP}]},
            [(ALICE, resource()), (ALICE, resource(subresource="status"))],
            [(ALICE, resource(group=""))],
        ),
        (
            {"resources": [{"group": GROUP, "resources": ["*"]}]},
            [(ALICE, resource()), (ALICE, resource(subresource="status"))],
            [(ALICE, resource(group=""))],
        ),
        (
            {"resources": [{"group": GROUP, "resources": ["*/status"]}]},
            [(ALICE, resource(subresource="status"))],
            [(ALICE, resource()), (ALICE, resource(subresource="scale"))],
        ),
        (
            {"resources": [{"group": GROUP, "resources": ["networkpolicys/status"]}]},
            [(ALICE, resource(subresource="status"))],
            [(ALICE, resource())],
        ),
        (
            # As upstream: what is said to be "all subresources" is the resource as well.
            {"resources": [{"group": GROUP, "resources": ["networkpolicys/*"]}]},
            [(ALICE, resource(subresource="status")), (ALICE, resource())],
            [(ALICE, resource(resource="pods"))],
        ),
        (
            {"resources": [{**POLICYS, "resourceNames": ["web"]}]},
            [(ALICE, resource())],
            [(ALICE, resource(name="db")), (ALICE, resource("list", name=""))],
        ),
        (
            {"namespaces": ["team-a", ""]},
            [(ALICE, resource()), (ALICE, resource(namespace=""))],
            [(ALICE, resource(namespace="team-b")), (ALICE, path("/"))],
        ),
        (
            {"namespaces": ["team-b"], "resources": [POLICYS]},
            [],
            [(ALICE, resource())],
        ),
        (
            {"nonResourceURLs": ["/healthz*", "/version"]},
            [(ALICE, path("/healthz/etcd")), (ALICE, path("/healthz")), (ALICE, path("/version"))],
            [(ALICE, path("/version/")), (ALICE, resource())],
        ),
        ({"nonResourceURLs": ["*"]}, [(ALICE, path("/x"))], [(ALICE, resource())]),
        ({"verbs": None, "users": []}, [(ALICE, resource())], []),
    ],
)
def test_a_rule_matches_what_all_its_fields_match(rule: Any, matching: Any, other: Any) -> None:
    made = read(rules=[{"level": "Metadata", **rule}])
    for user, wanted in matching:
        assert made.judge(user, wanted).level == "Metadata", (user, wanted)
    for user, wanted in other:
        assert made.judge(user, wanted).level == "None", (user, wanted)


def test_AU01_the_first_rule_that_matches_counts() -> None:
    made = read(
        omitStages=["RequestReceived"],
        omitManagedFields=True,
        rules=[
            {"level": "None", "verbs": ["watch"]},
            {
                "level": "RequestResponse",
                "namespaces": ["team-a"],
                "omitStages": ["Panic"],
                "omitManagedFields": False,
            },
            {"level": "Request"},
        ],
    )
    assert made.judge(ALICE, resource("watch")).level == "None"
    ours = made.judge(ALICE, resource())
    assert ours.level == "RequestResponse"
    assert ours.omitted == {"RequestReceived", "Panic"}
    assert ours.managed_fields
    assert ours.requests
    assert ours.responses
    others = made.judge(ALICE, path("/"))
    assert others.level == "Request"
    assert others.omitted == {"RequestReceived"}
    assert not others.managed_fields
    assert others.requests
    assert not others.responses


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rules": []}, "rules: Invalid value: []: "),
        ({}, "rules: Required value"),
        ({"rules": [{}]}, "rules[0].level: Required value"),
        ({"rules": [{"level": "Most"}]}, 'rules[0].level: Invalid value: "Most": '),
        (
            {"rules": [{"level": "None"}, {"level": "None", "userGroup": ["a"]}]},
            "rules[1].userGroup: unknown field",
        ),
        ({"rules": [{"level": "None", "users": "bob"}]}, 'rules[0].users: Invalid value: "bob": '),
        ({"rules": [{"level": "None", "users": [7]}]}, "rules[0].users[0]: Invalid value: 7: "),
        (
            {"rules": [{"level": "None", "omitStages": ["Late"]}]},
            'rules[0].omitStages[0]: Invalid value: "Late": ',
        ),
        (
            {"rules": [{"level": "None", "nonResourceURLs": ["healthz"]}]},
            'rules[0].nonResourceURLs[0]: Invalid value: "healthz": non-resource URL rules must'
            " begin with a '/' character",
        ),
        (
            {"rules": [{"level": "None", "nonResourceURLs": ["/a*b"]}]},
            "wildcards '*' must be the final character",
        ),
        (
            {"rules": [{"level": "None", "nonResourceURLs": ["/a"], "namespaces": ["b"]}]},
            "rules cannot apply to both regular resources and non-resource URLs",
        ),
        (
            {"rules": [{"level": "None", "resources": [{"group": f"{GROUP}/v1alpha1"}]}]},
            f'rules[0].resources[0].group: Invalid value: "{GROUP}/v1alpha1": ',
        ),
        (
            {"rules": [{"level": "None", "resources": [{"resourceNames": ["a"]}]}]},
            'rules[0].resources[0].resourceNames: Invalid value: ["a"]: using resourceNames',
        ),
        (
            {"apiVersion": "audit.k8s.io/v1beta1", "rules": [{"level": "None"}]},
            'apiVersion: Invalid value: "audit.k8s.io/v1beta1": ',
        ),
        ({"kind": "Event", "rules": [{"level": "None"}]}, 'kind: Invalid value: "Event": '),
    ],
)
def test_a_policy_that_is_wrong_is_refused_with_the_field(fields: Any, said: str) -> None:
    with pytest.raises(policy.BadPolicy) as caught:
        read(**fields)
    assert str(caught.value).startswith("policy.yaml: ")
    assert said in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"- a", b"rules: [", b"rules: []\nrules: []", b"\xff"])
def test_what_is_no_policy_is_refused(data: bytes) -> None:
    with pytest.raises(policy.BadPolicy, match=r"^policy\.yaml: "):
        policy.parse(data, "policy.yaml")


def test_the_policy_that_operators_are_shown_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_bytes()
    shown = page.partition(b"```yaml\n")[2].partition(b"```")[0]
    made = policy.parse(shown, "docs/audit.md")
    assert made.judge(ALICE, resource("create")).level == "Request"
    assert made.judge(ALICE, path("/readyz")).level == "None"


@pytest.mark.parametrize(
    ("forwarded", "real", "peer", "chain"),
    [
        ("", "", "10.0.0.1", ["10.0.0.1"]),
        ("1.1.1.1, 2.2.2.2", "", "10.0.0.1", ["1.1.1.1", "2.2.2.2", "10.0.0.1"]),
        ("1.1.1.1", "3.3.3.3", "3.3.3.3", ["1.1.1.1", "3.3.3.3"]),
        ("1.1.1.1,2.2.2.2", "1.1.1.1", "2.2.2.2", ["1.1.1.1", "2.2.2.2"]),
        ("nobody, ::ffff:1.1.1.1", "<script>", "::1", ["1.1.1.1", "::1"]),
        ("", "", "", []),
    ],
)
def test_source_addresses(forwarded: str, real: str, peer: str, chain: list[str]) -> None:
    assert event.source_addresses(forwarded, real, peer) == chain


def record(**other: Any) -> event.Record:
    fields: dict[str, Any] = {
        "level": "Metadata",
        "audit_id": "a-b",
        "uri": "/apis?x=1",
        "verb": "create",
        "user": User("bob", "7", ("x", "y"), {"k": ("v",)}),
        "addresses": ["10.0.0.1"],
        "agent": "kubectl",
        "received": 1764145230.5,
        "ref": event.reference(resource("create", name="")),
    }
    return event.Record(**{**fields, **other})


def test_AU02_an_event_is_worded_as_upstream_words_it() -> None:
    made = record()
    made.name({"metadata": {"name": "web", "namespace": "other", "uid": "u", "labels": {}}})
    made.status = event.outcome(403, {"kind": "Status", "status": "Failure", "message": "no"})
    made.annotations = {"b": "2", "a": ""}
    assert event.as_json(made.at("ResponseComplete", 1764145230.500001)) == (
        b'{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"a-b",'
        b'"stage":"ResponseComplete","requestURI":"/apis?x=1","verb":"create",'
        b'"user":{"username":"bob","uid":"7","groups":["x","y"],"extra":{"k":["v"]}},'
        b'"sourceIPs":["10.0.0.1"],"userAgent":"kubectl",'
        b'"objectRef":{"resource":"networkpolicys","namespace":"team-a","name":"web","uid":"u",'
        b'"apiGroup":"net.alpha.kubernetes.io","apiVersion":"v1alpha1"},'
        b'"responseStatus":{"metadata":{},"status":"Failure","message":"no","code":403},'
        b'"requestReceivedTimestamp":"2025-11-26T08:20:30.500000Z",'
        b'"stageTimestamp":"2025-11-26T08:20:30.500001Z","annotations":{"a":"","b":"2"}}\n'
    )


def test_a_legacy_line() -> None:
    assert event.as_legacy(record().at("RequestReceived", 0)) == (
        b'2025-11-26T08:20:30.500000Z AUDIT: id="a-b" stage="RequestReceived" ip="10.0.0.1"'
        b' method="create" user="bob" groups="\\"x\\",\\"y\\"" as="<self>" asgroups="<lookup>"'
        b' user-agent="kubectl" namespace="team-a" uri="/apis?x=1" response="<deferred>"\n'
    )
    nobody = record(user=None, ref=None, addresses=[]).at("RequestReceived", 0)
    assert b'ip="<unknown>" method="create" user="<none>"' in event.as_legacy(nobody)


def test_a_long_agent_is_cut() -> None:
    told = record(agent="x" * 1025).at("RequestReceived", 0)["userAgent"]
    assert told == "x" * 1024 + "...TRUNCATED"


def test_managed_fields_are_left_out_everywhere() -> None:
    def obj() -> dict[str, Any]:
        return {"metadata": {"name": "a", "managedFields": [1]}}

    plain = {"metadata": {"name": "a"}}
    assert event.without_managed_fields(obj()) == plain
    assert event.without_managed_fields({"items": [obj(), obj()]}) == {"items": [plain, plain]}
    rows = event.without_managed_fields({"rows": [{"object": obj()}, {"cells": []}]})
    assert rows == {"rows": [{"object": plain}, {"cells": []}]}
    assert event.without_managed_fields([1]) == [1]


class Now:
    seconds = 1764145230.0

    def __call__(self) -> float:
        return self.seconds


def rotating(folder: Path, now: Now, **other: Any) -> RotatingFile:
    limits = {"size": 10, "age": 0, "backups": 0, **other}
    return RotatingFile(folder / "sub" / "audit.log", clock=now, **limits)


def kept(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "sub").iterdir())}


def test_a_full_file_is_put_aside(tmp_path: Path) -> None:
    file = rotating(tmp_path, Now())
    for line in (b"12345\n", b"678\n", b"next\n", b"a line longer than a file\n", b"x\n"):
        file.write(line)
    file.close()
    assert kept(tmp_path) == {
        "audit-2025-11-26T08-20-30.000.log": b"12345\n678\n",
        "audit-2025-11-26T08-20-30.001.log": b"next\n",
        "audit-2025-11-26T08-20-30.002.log": b"a line longer than a file\n",
        "audit.log": b"x\n",
    }
    assert (tmp_path / "sub" / "audit.log").stat().st_mode & 0o777 == 0o600
    again = rotating(tmp_path, Now())
    again.write(b"y\n")
    again.close()
    assert kept(tmp_path)["audit.log"] == b"x\ny\n"


def test_old_files_are_removed_by_number_and_by_age(tmp_path: Path) -> None:
    now = Now()
    file = rotating(tmp_path, now, backups=2, age=1)
    (tmp_path / "sub").mkdir()
    for name in ("audit-mine.log", "audit.txt"):
        (tmp_path / "sub" / name).write_bytes(b"not ours")
    for number in range(5):
        file.write(b"line %d....\n" % number)
    names = [name for name in kept(tmp_path) if "2025" in name]
    assert names == ["audit-2025-11-26T08-20-30.002.log", "audit-2025-11-26T08-20-30.003.log"]
    now.seconds += 86_401
    file.write(b"tomorrow..\n")
    file.close()
    assert list(kept(tmp_path)) == [
        "audit-2025-11-27T08-20-31.000.log",
        "audit-mine.log",
        "audit.log",
        "audit.txt",
    ]


def test_a_line_that_is_cut_by_a_full_disk_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = rotating(tmp_path, Now(), size=1000)
    file.write(b"whole\n")
    real = os.write

    def full(descriptor: int, data: Any) -> int:
        if len(data) < 4:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:3])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        file.write(b"cut off\n")
    monkeypatch.undo()
    file.write(b"next\n")
    file.close()
    assert kept(tmp_path)["audit.log"] == b"whole\nnext\n"


class Gate:
    """A sink that takes nothing until it is opened, and fails for lines that say so."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.lines: list[bytes] = []
        self.writes = 0
        self.closed = False

    def write(self, data: bytes) -> None:
        assert self.open.wait(10)
        if b"bad" in data:
            raise OSError("bad disk")
        self.writes += 1
        self.lines += data.splitlines()

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


async def test_a_full_queue_drops_what_comes_and_counts_it(gate: Gate) -> None:
    written = Log(gate, lines=3, size=100)
    written.add(b"first\n")
    deadline = time.monotonic() + 10
    while written._queue and time.monotonic() < deadline:  # the thread holds one already
        await asyncio.sleep(0.001)
    for number in range(5):
        written.add(b"%d\n" % number)
    assert written.loss.count == 2
    gate.open.set()
    await written.close()
    assert gate.lines == [b"first", b"0", b"1", b"2"]
    assert gate.closed


async def test_the_queue_is_bounded_in_bytes_too(gate: Gate) -> None:
    written = Log(gate, size=100)
    written.add(b"x" * 101)
    assert written.loss.count == 1
    gate.open.set()
    await written.close()
    assert gate.lines == []


async def test_what_the_sink_refuses_is_counted_and_the_next_is_tried(gate: Gate) -> None:
    gate.open.set()
    written = Log(gate)
    written.add(b"bad\n")
    deadline = time.monotonic() + 10
    while not written.loss.count and time.monotonic() < deadline:
        await asyncio.sleep(0.001)
    written.add(b"good\n")
    await written.close()
    assert (written.loss.count, gate.lines) == (1, [b"good"])


async def test_many_lines_are_one_write(gate: Gate) -> None:
    written = Log(gate)
    for _ in range(100):
        written.add(b"x" * 1023 + b"\n")
    gate.open.set()
    await written.close()
    assert len(gate.lines) == 100
    assert gate.writes <= 3
