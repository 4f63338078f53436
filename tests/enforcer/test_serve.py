"""The server inside the enforcer, asked over real connections."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner, Result

from enforcer.telemetry import serve, show
from enforcer.telemetry.endpoint import Endpoint
from enforcer.telemetry.metrics import Metrics
from enforcer.telemetry.routes import application
from enforcer.telemetry.status import Status
from tests.enforcer.reporting import BRIDGE, Clock, commit, enforcing, listed, started
from tests.lab.processes import Daemon, free_port
from tests.lab.world import world

PORT = 10260
FLOWS = [{"namespace": "a", "pod": "front", "verdict": "denied", "packets": 3}]


class Seen:
    """Flows that remember what they were asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def __call__(
        self, *, namespace: str, pod: str, verdict: str, limit: int
    ) -> Sequence[Mapping[str, Any]]:
        self.asked.append({"namespace": namespace, "pod": pod, "verdict": verdict, "limit": limit})
        return FLOWS[:limit]


class Served:
    """A status and where it is served."""

    def __init__(self, address: str, http: httpx.AsyncClient) -> None:
        self.clock = Clock()
        self.status = enforcing(self.clock)
        self.flows = Seen()
        self.address = address
        self.http = http

    async def get(self, path: str) -> tuple[int, str]:
        answer = await self.http.get(path)
        return answer.status_code, answer.text


@contextlib.asynccontextmanager
async def serving(
    status: Status, endpoint: Endpoint, flows: Any, patience: int = serve.PATIENCE
) -> AsyncIterator[None]:
    made = application(status, Metrics(status), flows)
    task = asyncio.create_task(serve.serve(made, serve.bind(endpoint), patience=patience))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture(params=["127.0.0.1", "::1"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    endpoint = Endpoint(request.param, free_port())
    async with httpx.AsyncClient(base_url=endpoint.url, trust_env=False) as http:
        made = Served(str(endpoint), http)
        async with serving(made.status, endpoint, made.flows):
            yield made


# Probes.


async def test_an_enforcer_that_is_well_says_ok(served: Served) -> None:
    for path in ("/healthz", "/livez", "/readyz", "/readyz/synced", "/livez/loop"):
        answer = await served.http.get(path)
        assert (answer.status_code, answer.text) == (200, "ok")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert await served.get("/readyz/none") == (404, "there is no such check\n")


async def test_verbose_names_every_check_as_kube_apiserver_does(served: Served) -> None:
    assert await served.get("/readyz?verbose") == (
        200,
        "[+]synced ok\n[+]commit ok\n[+]bypass ok\n[+]canary ok: off\n[+]table ok\n"
        "readyz check passed\n",
    )
    assert await served.get("/livez?verbose") == (
        200,
        "[+]loop ok\n[+]commit ok\nlivez check passed\n",
    )


async def test_a_check_that_fails_says_why(served: Served) -> None:
    served.status.bypass([BRIDGE])
    served.status.commit_failed("Operation\nnot permitted")
    assert await served.get("/readyz") == (
        500,
        "[+]synced ok\n[-]commit failed: attempt 1 failed: Operation not permitted\n"
        "[-]bypass failed: cni0: frames between its ports pass unjudged\n"
        "[+]canary ok: off\n[+]table ok\nreadyz check failed\n",
    )
    assert await served.get("/readyz/commit") == (
        500,
        "internal server error: attempt 1 failed: Operation not permitted\n",
    )
    assert await served.get("/readyz/table") == (200, "ok")
    code, text = await served.get("/readyz?exclude=commit&exclude=bypass&exclude=zz&verbose")
    assert code == 200
    assert "[+]commit excluded: ok\n" in text
    assert "warn: there is no check zz\n" in text
    # A process that would only fail again is not restarted for it.
    assert await served.get("/livez") == (200, "ok")


async def test_servers_that_are_away_are_warned_of(served: Served) -> None:
    served.status.following("/api/v1/pods", False, "ConnectError: refused")
    assert await served.get("/readyz") == (200, "ok")
    code, text = await served.get("/readyz?verbose")
    assert code == 200
    assert (
        "warn: pods: https://10.0.0.1:6443 has been away since 2016-04-07T03:33:20.000Z:"
        " ConnectError: refused\n" in text
    )


async def test_a_commit_that_hangs_is_not_alive(served: Served) -> None:
    served.status.committing()
    served.clock.now = 61
    for path in ("/healthz", "/livez"):
        code, text = await served.get(path)
        assert code == 500
        assert "[-]commit failed: a commit has not ended for 61 s\n" in text


async def test_only_get_and_head_are_served(served: Served) -> None:
    head = await served.http.head("/readyz")
    assert (head.status_code, head.content) == (200, b"")
    for path in ("/readyz", "/livez/loop", "/metrics", "/status", "/flows"):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert (await served.http.request(method, path)).status_code == 405
    assert (await served.http.get("/")).status_code == 404


# Documents.


async def test_the_status_is_a_document(served: Served) -> None:
    answer = await served.http.get("/status")
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert (document["apiVersion"], document["kind"]) == ("netpol-enforcer/v1", "EnforcerStatus")
    assert document["enforced"]["digest"] == "d1"


async def test_metrics_are_what_prometheus_reads(served: Served) -> None:
    answer = await served.http.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "netpol_enforcer_time_to_enforce_seconds_count 1.0\n" in answer.text
    answer = await served.http.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert answer.text.endswith("# EOF\n")


async def test_flows_are_asked_with_their_filters(served: Served) -> None:
    assert (await served.http.get("/flows")).json() == {
        "apiVersion": "netpol-enforcer/v1",
        "kind": "FlowList",
        "items": FLOWS,
    }
    for path in ("?namespace=a&pod=web-0.x&verdict=denied&limit=7", "?pod=fd66::11"):
        assert (await served.http.get(f"/flows{path}")).status_code == 200
    assert served.flows.asked == [
        {"namespace": "", "pod": "", "verdict": "", "limit": 100},
        {"namespace": "a", "pod": "web-0.x", "verdict": "denied", "limit": 7},
        {"namespace": "", "pod": "fd66::11", "verdict": "", "limit": 100},
    ]


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("limit=0", "limit: '0' is no number from 1 to 1000"),
        ("limit=1001", "limit: '1001' is no number"),
        ("limit=%D9%A3", "limit: '\u0663' is no number"),
        ("limit=x", "limit: 'x' is no number"),
        ("limit=1&limit=2", "limit is given twice"),
        ("namespace=A", "namespace: 'A' is no name"),
        ("namespace=a.b", "namespace: 'a.b' is no name"),
        ("pod=..%2Fx", "pod: '../x' is no name"),
        ("podname=x", "'podname' is no parameter; there are namespace, pod, verdict, limit"),
        ("verdict=maybe", "verdict: 'maybe' is none of denied, audited"),
    ],
)
async def test_a_query_that_means_nothing_is_refused(
    served: Served, query: str, complaint: str
) -> None:
    code, text = await served.get(f"/flows?{query}")
    assert code == 400
    assert text.startswith(complaint)
    assert served.flows.asked == []


async def test_an_enforcer_without_flows_says_so(plain: Served) -> None:
    assert await plain.get("/flows") == (404, "this enforcer reports no flows\n")


@pytest.fixture
async def plain() -> AsyncIterator[Served]:
    """Without flows."""
    endpoint = Endpoint("127.0.0.1", free_port())
    async with httpx.AsyncClient(base_url=endpoint.url, trust_env=False) as http:
        made = Served(str(endpoint), http)
        async with serving(made.status, endpoint, None):
            yield made


# Connections.


def test_a_port_that_is_taken_is_known_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="Address already in use") as caught:
            serve.bind(Endpoint("127.0.0.1", port))
    # The command prints it as it is.
    assert str(caught.value) == (f"--metrics-bind-address 127.0.0.1:{port}: Address already in use")


def test_an_address_of_another_host_is_known_at_once() -> None:
    with pytest.raises(OSError, match=r"^--metrics-bind-address \[2001:db8::1\]:10260: "):
        serve.bind(Endpoint("2001:db8::1", PORT))


async def test_it_ends_when_it_is_cancelled_and_leaves_signals_alone() -> None:
    endpoint = Endpoint("127.0.0.1", free_port())
    before = signal.getsignal(signal.SIGTERM)
    status = enforcing(Clock())
    http = httpx.AsyncClient(base_url=endpoint.url, trust_env=False)
    async with serving(status, endpoint, None), http:
        assert (await http.get("/livez")).text == "ok"
        assert signal.getsignal(signal.SIGTERM) is before
        begun = time.monotonic()
    assert time.monotonic() - begun < 3
    serve.bind(endpoint).close()  # the port is free again


async def test_a_head_without_an_end_is_refused(served: Served) -> None:
    reader, writer = await connection(served)
    writer.write(b"GET /readyz HTTP/1.1\r\nX: " + b"x" * serve.HEAD_BYTES)
    assert (await reader.readline()) == b"HTTP/1.1 400 Bad Request\r\n"
    writer.close()
    assert await served.get("/readyz") == (200, "ok")


async def connection(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    endpoint = Endpoint.parse(served.address)
    assert endpoint is not None
    return await asyncio.open_connection(endpoint.host, endpoint.port)


async def test_a_client_cannot_name_itself(served: Served) -> None:
    answer = await served.http.get("/status", headers={"X-Forwarded-For": "10.1.0.5"})
    assert answer.status_code == 200


async def test_who_is_slow_with_a_request_is_dropped() -> None:
    endpoint = Endpoint("127.0.0.1", free_port())
    async with serving(enforcing(Clock()), endpoint, None, patience=1):
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\nok")).startswith(b"HTTP/1.1 200")
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"GET /")
                await asyncio.sleep(0.1)
                assert time.monotonic() - begun < 10
        assert time.monotonic() - begun > 0.9
        writer.close()


async def test_a_crowd_costs_nobody_an_answer(plain: Served) -> None:
    crowd = [await connection(plain) for _ in range(serve.CONNECTIONS + 20)]
    assert await plain.get("/readyz") == (200, "ok")
    await asyncio.sleep(0.1)
    gone = [reader for reader, _ in crowd if reader.at_eof() or reader.exception() is not None]
    assert gone == [reader for reader, _ in crowd[: len(gone)]]
    assert 20 <= len(gone) <= 22
    for _, writer in crowd:
        writer.close()


# From elsewhere.

# Opens connections, and when it is told asks through the last one.
CLIENT = """
import socket, sys
held = [socket.create_connection((sys.argv[1], 10260), 5) for _ in range(int(sys.argv[2]))]
print("there", flush=True)
sys.stdin.readline()
held[-1].sendall(b"GET /livez HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
print(held[-1].recv(100).split(b"\\r")[0].decode(), flush=True)
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    """The namespaces of a node and of a pod."""
    with world({"pod": ("10.66.0.11", "fd66::11")}) as made:
        yield made.node.netns, made.hosts["pod"].netns, tmp_path_factory.mktemp("serving")


def curl(netns: str, url: str) -> tuple[int, str]:
    done = subprocess.run(
        ["ip", "netns", "exec", netns, "curl", "-gs", "-m", "5", "-w", "\n%{http_code}", url],
        capture_output=True,
        text=True,
        check=False,
    )
    body, _, code = done.stdout.rpartition("\n")
    return int(code), body


@pytest.mark.parametrize("address", ["[10.66.0.1]:10260", "[::]:10260"])
async def test_a_pod_may_probe_and_scrape_and_learns_no_names(
    node: tuple[str, str, Path], address: str
) -> None:
    here, pod, folder = node
    prefix = ("ip", "netns", "exec", here)
    daemon = Daemon("tests.enforcer.serving", [address], folder / "log", prefix=prefix)
    await daemon.start()
    url = "http://10.66.0.1:10260"
    try:
        deadline = time.monotonic() + 20
        while curl(here, f"{url}/livez") != (200, "ok"):
            assert time.monotonic() < deadline, (folder / "log").read_text()
            await asyncio.sleep(0.1)
        assert curl(pod, f"{url}/livez") == (200, "ok")
        assert curl(pod, f"{url}/metrics")[0] == 200
        for path in ("/status", "/flows"):
            code, body = curl(pod, url + path)
            assert code == 403
            assert "kubectl exec" in body
        assert "[-]bypass failed: reason withheld\n" in curl(pod, f"{url}/readyz")[1]
        assert curl(pod, f"{url}/readyz/bypass")[1] == "internal server error: reason withheld\n"
        assert "[-]bypass failed: cni0: " in curl(here, f"{url}/readyz")[1]
        assert json.loads(curl(here, f"{url}/status")[1])["node"] == "node-a"
        if address.startswith("[::]"):
            assert curl(pod, "http://[fd66::1]:10260/status")[0] == 403
            assert curl(here, "http://[::1]:10260/status")[0] == 200
            assert curl(here, "http://127.0.0.1:10260/status")[0] == 200

        with connected(here, 1) as kept, connected(pod, 400) as crowd:
            # The crowd of the pod pushed out its own, and the kubelet's connection is still there.
            assert curl(here, f"{url}/livez") == (200, "ok")
            assert kept.communicate("\n")[0] == "HTTP/1.1 200 OK\n"
            assert crowd.communicate("\n")[0] == "HTTP/1.1 200 OK\n"
    finally:
        await daemon.stop()


@contextlib.contextmanager
def connected(netns: str, number: int) -> Iterator[subprocess.Popen[str]]:
    """A client in a namespace that holds so many connections."""
    command = ["ip", "netns", "exec", netns, "python3", "-c", CLIENT, "10.66.0.1", str(number)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "there\n"
            yield process
        finally:
            process.kill()


# The command.


def command(address: str, *words: str) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    show.register(app)
    return CliRunner().invoke(app, ["status", "--address", address, *words])


async def test_the_command_prints_for_people_and_for_programs(plain: Served) -> None:
    shown = await asyncio.to_thread(command, plain.address)
    assert shown.exit_code == 0
    assert shown.stdout.startswith("Node        node-a\nReady       yes\n")
    shown = await asyncio.to_thread(command, plain.address, "-o", "json")
    assert shown.exit_code == 0
    assert json.loads(shown.stdout) == (await plain.http.get("/status")).json()


async def test_the_command_fails_with_1_if_the_enforcer_is_not_ready(plain: Served) -> None:
    plain.status.commit_failed("ENOSPC")
    for words in ((), ("-o", "json")):
        shown = await asyncio.to_thread(command, plain.address, *words)
        assert shown.exit_code == 1
        assert shown.stderr == "netpol-enforcer: not ready: commit: attempt 1 failed: ENOSPC\n"
        assert "ENOSPC" in shown.stdout


def test_the_command_fails_with_2_if_there_is_no_enforcer() -> None:
    for address, reason in (
        (f"127.0.0.1:{free_port()}", "is the enforcer running?"),
        ("0", "it serves nothing: --metrics-bind-address is off"),
        ("nonsense", "no address and port"),
    ):
        shown = command(address)
        assert shown.exit_code == 2
        assert shown.stderr.startswith("netpol-enforcer: ")
        assert reason in shown.stderr
        assert shown.stderr.count("\n") == 1
    assert command("0", "-o", "yaml").exit_code == 2


async def test_what_is_fetched_may_have_a_query_and_errors_are_repeated(served: Served) -> None:
    flows = await asyncio.to_thread(show.fetch, served.address, "/flows", {"limit": 1})
    assert flows["items"] == FLOWS
    with pytest.raises(show.Unreachable, match=r"/flows: 400: limit: '0' is no number"):
        await asyncio.to_thread(show.fetch, served.address, "/flows", {"limit": 0})
    with pytest.raises(show.Unreachable, match="the answer is no JSON"):
        await asyncio.to_thread(show.fetch, served.address, "/livez")


async def test_an_enforcer_that_starts_is_shown(plain: Served) -> None:
    fresh = started(plain.clock)
    listed(fresh)
    plain.status.__dict__.update(fresh.__dict__)
    shown = await asyncio.to_thread(command, plain.address)
    assert (shown.exit_code, shown.stderr) == (
        1,
        "netpol-enforcer: not ready: synced: nothing has been committed yet\n",
    )
    commit(plain.status)
    assert (await asyncio.to_thread(command, plain.address)).exit_code == 0
