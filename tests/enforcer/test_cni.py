"""The plugin as a runtime runs it: one file, copied alone, by the interpreter of the system."""

import ast
import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from enforcer.cni import plugin as cni
from tests.enforcer.chain import Chain, Done, Failed, run
from tests.enforcer.waiting import Waiting

Json = dict[str, Any]
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
ARGS = (
    "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=web-0;K8S_POD_UID=0f9c"
    ";K8S_POD_INFRA_CONTAINER_ID=c1"
)
LINE = "a/web-0 0f9c 10.9.0.5,fd09::5 c1 eth0"
PLUGINS = Path(sys.prefix) / "cni" / "usr" / "lib" / "cni"


def result(version: str = "1.0.0") -> Json:
    return {
        "cniVersion": version,
        "interfaces": [
            {"name": "veth0", "mac": "00:11:22:33:44:55"},
            {"name": "eth0", "mac": "00:11:22:33:44:66", "sandbox": "/run/netns/c1"},
        ],
        "ips": [
            {"address": "10.9.0.5/24", "gateway": "10.9.0.1", "interface": 1},
            {"address": "fd09:0::5/64", "interface": 1},
        ],
        "routes": [{"dst": "0.0.0.0/0", "mtu": 1400, "x": [None, 1.0, 12345678901234567890]}],
        "dns": {"nameservers": ["10.9.0.10"], "search": ["ü.example"]},
    }


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installed by itself, into a folder that has nothing else."""
    folder = tmp_path_factory.mktemp("bin")
    words = [sys.executable, "-m", "enforcer.cni.plugin", "--install", str(folder)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert done.stdout == f"{folder / 'netpol-cni'}\n"
    assert [file.name for file in folder.iterdir()] == ["netpol-cni"]
    return folder / "netpol-cni"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Waiting]:
    process = Waiting(tmp_path)
    await process.ready()
    yield process
    await process.stop()


class Runtime:
    """One sandbox; `config` are the plugin's own keys."""

    def __init__(self, plugin: Path, path: Path, **config: Any) -> None:
        self.plugin = plugin
        self.config = {"socket": str(path), "timeout": 10, **config}

    async def __call__(
        self,
        verb: str,
        *,
        version: str = "1.0.0",
        prev: Any = ...,
        args: Any = ARGS,
        drop: str = "",
        **config: Any,
    ) -> Done:
        given: Json = {"cniVersion": version, "name": "pods", "type": "netpol-cni", **self.config}
        if prev is ...:
            given["prevResult"] = result(version)
        elif prev is not None:
            given["prevResult"] = prev
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": "c1",
            "CNI_NETNS": "/run/netns/c1",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": args,
        }
        environment.pop(drop, None)
        return await run(self.plugin, environment, json.dumps({**given, **config}).encode())


@pytest.fixture
def runtime(plugin: Path, tmp_path: Path) -> Runtime:
    return Runtime(plugin, tmp_path / "run" / "wait.sock")


# -- What it is ------------------------------------------------------------------------------------


def test_it_is_python_3_8_and_its_library_and_nothing_else() -> None:
    source = Path(cni.__file__).read_text()
    assert source.startswith("#!/usr/bin/python3 -IS\n")
    tree = ast.parse(source, feature_version=(3, 8))
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    assert imported <= sys.stdlib_module_names
    assert not {"tomllib", "zoneinfo", "graphlib"} & imported


def test_a_copy_is_replaced_and_a_folder_that_is_not_there_is_an_error(
    plugin: Path, tmp_path: Path
) -> None:
    old = tmp_path / "netpol-cni"
    old.write_text("old")
    assert by_hand(plugin, "--install", str(tmp_path)).returncode == 0
    assert old.read_bytes() == plugin.read_bytes()
    assert os.access(old, os.X_OK)
    done = by_hand(plugin, "--install", "/nowhere")
    assert done.returncode == 1
    assert "/nowhere/netpol-cni" in done.stderr
    for words in ([], ["--help"], ["--install"]):
        done = by_hand(plugin, *words)
        assert done.returncode == 2
        assert "usage: netpol-cni --install FOLDER" in done.stderr


def by_hand(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("text", [b"", b'{"cniVersion":"0.4.0"}', b"{", b"[]"])
async def test_version(plugin: Path, text: bytes) -> None:
    done = await run(plugin, {"CNI_COMMAND": "VERSION"}, text)
    wanted = "0.4.0" if b"0.4.0" in text else "1.1.0"
    assert done.result == {"cniVersion": wanted, "supportedVersions": list(VERSIONS)}


# -- ADD -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_pod_is_held_until_it_is_programmed_and_its_result_is_as_it_was(
    server: Waiting, runtime: Runtime, version: str
) -> None:
    adding = asyncio.create_task(runtime("ADD", version=version))
    await server.seen(lambda: server.heard() == [f"claim {LINE}"])
    await asyncio.sleep(0.3)
    assert not adding.done()
    server.say("programmed")
    done = await adding
    assert done.result == result(version)
    assert done.errors == ""


async def test_a_result_without_a_version_gets_that_of_the_configuration(
    server: Waiting, runtime: Runtime
) -> None:
    server.say("programmed")
    bare = result()
    del bare["cniVersion"]
    done = await runtime("ADD", prev=bare)
    assert done.result == {**bare, "cniVersion": "1.0.0"}
    other = await runtime("ADD", version="1.0.0", prev=result("0.4.0"))
    assert other.result["cniVersion"] == "0.4.0"


async def test_the_time_is_over(server: Waiting, runtime: Runtime) -> None:
    done = await runtime("ADD", timeout=0.8)
    assert done.code == 11
    assert done.said["msg"] == "pod a/web-0 has no rules in the packet filter after 0.8 seconds"
    assert "a/web-0: not programmed within 0." in done.said["details"]
    assert 0.6 < done.seconds < 5
    await server.seen(lambda: server.heard("cancelled") == [f"cancelled {LINE}"])
    done = await runtime("ADD", timeout=0.8, onTimeout="allow")
    assert done.result == result()
    assert "pod a/web-0 has no rules" in done.errors
    assert "it starts all the same" in done.errors


@pytest.mark.parametrize("left_behind", [False, True], ids=["no-socket", "nobody-behind-it"])
async def test_no_enforcer_is_there(runtime: Runtime, tmp_path: Path, left_behind: bool) -> None:
    if left_behind:
        (tmp_path / "run").mkdir()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(runtime.config["socket"])
    done = await runtime("ADD", timeout=0.5)
    assert done.code == 11
    assert runtime.config["socket"] in done.said["details"]
    assert 0.4 < done.seconds < 5
    done = await runtime("ADD", timeout=0.5, onTimeout="allow")
    assert done.result == result()
    assert runtime.config["socket"] in done.errors


async def test_an_enforcer_that_starts_late_is_early_enough(
    runtime: Runtime, tmp_path: Path
) -> None:
    adding = asyncio.create_task(runtime("ADD", timeout=20))
    await asyncio.sleep(0.5)
    server = Waiting(tmp_path)
    server.say("programmed")
    await server.ready()
    assert (await adding).result == result()
    await server.stop()


@pytest.mark.parametrize("gently", [False, True], ids=["kill-9", "restart"])
async def test_an_enforcer_that_ends_meanwhile_fails_no_pod(
    server: Waiting, runtime: Runtime, gently: bool
) -> None:
    adding = [asyncio.create_task(runtime("ADD", timeout=20)) for _ in range(3)]
    await server.seen(lambda: len(server.heard("claim")) == 3)
    await (server.stop() if gently else server.kill())
    await asyncio.sleep(0.5)
    assert not any(task.done() for task in adding)
    await server.ready()
    await server.seen(lambda: len(server.heard("claim")) == 6)
    server.say("programmed")
    for task in adding:
        assert (await task).result == result()


async def test_an_enforcer_that_is_killed_and_stays_away(server: Waiting, runtime: Runtime) -> None:
    adding = asyncio.create_task(runtime("ADD", timeout=1.5))
    await server.seen(lambda: bool(server.heard("claim")))
    await server.kill()
    done = await adding
    assert done.code == 11
    assert "refused" in done.said["details"]


async def test_an_enforcer_that_hangs(server: Waiting, runtime: Runtime) -> None:
    server.pause()
    done = await runtime("ADD", timeout=0.7)
    assert done.code == 11
    assert done.seconds < 5
    server.resume()


@pytest.mark.parametrize("policy", ["fail", "allow"])
async def test_a_refusal_is_no_matter_of_time(
    server: Waiting, runtime: Runtime, policy: str
) -> None:
    server.say("refused", "10.9.0.5 is of another pod")
    done = await runtime("ADD", onTimeout=policy)
    assert done.code == 100
    assert done.said["msg"].endswith("a/web-0: 10.9.0.5 is of another pod")
    assert done.seconds < 5


async def test_a_failure_of_the_enforcer_may_pass(server: Waiting, runtime: Runtime) -> None:
    server.say("broken")
    adding = asyncio.create_task(runtime("ADD"))
    await server.seen(lambda: len(server.heard("claim")) > 1)
    server.say("programmed")
    (server.folder / "broken").unlink()
    assert (await adding).result == result()


@contextmanager
def saying(path: Path, answer: bytes) -> Iterator[None]:
    """A process that is no enforcer answers there."""
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    if connection.recv(10_000) == b"end":
                        return
                    with suppress(OSError):
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(path))
            last.sendall(b"end")
            thread.join()


@pytest.mark.parametrize(
    "answer",
    [b"", b"\n", b"{}\n", b"[]\n", b'{"ok":1}\n', b"\xff\n", b'{"ok":true}', b"x" * 1_000_000],
)
async def test_an_answer_that_is_none_lets_no_pod_start(
    runtime: Runtime, tmp_path: Path, answer: bytes
) -> None:
    with saying(tmp_path / "run" / "wait.sock", answer):
        done = await runtime("ADD", timeout=0.4)
    assert done.code in (11, 100)
    assert done.seconds < 5


# -- Whom it concerns ------------------------------------------------------------------------------


async def test_a_container_of_no_pod_and_an_excluded_namespace_do_not_wait(
    runtime: Runtime,
) -> None:
    for args in ("", "IgnoreUnknown=true;FOO=bar", "K8S_POD_INFRA_CONTAINER_ID=c1"):
        done = await runtime("ADD", args=args)
        assert done.result == result()
    done = await runtime("ADD", excludeNamespaces=["kube-system", "a"])
    assert done.result == result()
    assert done.seconds < 5
    assert (await runtime("ADD", excludeNamespaces=["b"], timeout=0.3)).code == 11


async def test_a_pod_without_an_address_that_others_reach_does_not_wait(runtime: Runtime) -> None:
    for ips in ([], [{"address": "fe80::1/64"}, {"address": "169.254.172.2/22"}]):
        done = await runtime("ADD", prev={**result(), "ips": ips})
        assert done.result == {**result(), "ips": ips}
        assert "a/web-0 has no address" in done.errors


@pytest.mark.parametrize(
    ("ips", "wanted"),
    [
        ([{"address": "10.9.0.5/24", "interface": 0}, {"address": "10.9.0.6/32"}], "10.9.0.6"),
        ([{"version": "6", "address": "FD09::0:5/64", "interface": 1}], "fd09::5"),
        ([{"address": "10.9.0.5/24"}, {"address": "10.9.0.5/32"}], "10.9.0.5"),
    ],
)
async def test_the_addresses_are_those_of_the_sandbox(
    server: Waiting, runtime: Runtime, ips: list[Json], wanted: str
) -> None:
    server.say("programmed")
    prev = {**result(), "ips": ips}
    assert (await runtime("ADD", prev=prev, args=ARGS.replace("K8S_POD_UID", "X"))).result == prev
    assert server.heard() == [f"claim a/web-0 - {wanted} c1 eth0"]


# -- What is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ({"timeOut": 3}, 2, "'timeOut' (given: 3)"),
        ({"ipam": {"type": "host-local"}}, 2, "'ipam'"),
        ({"timeout": 0}, 7, "timeout: 0"),
        ({"timeout": -1}, 7, "timeout: -1"),
        ({"timeout": "10"}, 7, 'timeout: "10"'),
        ({"timeout": True}, 7, "timeout: true"),
        ({"timeout": 121}, 7, "up to 120"),
        ({"timeout": float("nan")}, 7, "timeout: NaN"),
        ({"onTimeout": "ignore"}, 7, 'onTimeout: "ignore" is not "fail" or "allow"'),
        ({"onTimeout": ["allow"]}, 7, "onTimeout"),
        ({"socket": "run/wait.sock"}, 7, "socket"),
        ({"socket": "/" + "x" * 107}, 7, "socket"),
        ({"socket": None}, 7, "socket"),
        ({"excludeNamespaces": "kube-system"}, 7, "excludeNamespaces"),
        ({"prev": None}, 7, "no prevResult"),
        ({"prev": []}, 7, "no prevResult"),
        ({"prev": {"ips": [{"address": "10.9.0.500/24"}]}}, 6, "prevResult: ips"),
        ({"prev": {"ips": [{}]}}, 6, "prevResult: ips"),
        ({"prev": {"ips": ["10.9.0.5"]}}, 6, "prevResult: ips"),
        (
            {"prev": {"ips": [{"address": "10.9.0.5/24", "interface": 3}], "interfaces": [{}]}},
            6,
            "",
        ),
        ({"version": "0.2.0"}, 1, "0.2.0"),
        ({"version": "2.0.0"}, 1, "2.0.0"),
        ({"version": None}, 1, "None"),
        ({"args": "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;FOO=1"}, 4, "unknown: FOO"),
        ({"args": "IgnoreUnknown=0;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;FOO=1"}, 4, "FOO"),
        ({"args": "IgnoreUnknown=yes;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b"}, 4, "IgnoreUnknown"),
        ({"args": "K8S_POD_NAMESPACE"}, 4, "KEY=VALUE"),
        ({"args": "IgnoreUnknown=1;K8S_POD_NAME=b"}, 4, "a namespace and a name"),
        ({"drop": "CNI_CONTAINERID"}, 4, "CNI_CONTAINERID"),
        ({"drop": "CNI_NETNS"}, 4, "CNI_NETNS"),
        ({"drop": "CNI_IFNAME"}, 4, "CNI_IFNAME"),
    ],
)
async def test_what_is_wrong_is_said(runtime: Runtime, given: Json, code: int, words: str) -> None:
    done = await runtime("ADD", **given)
    assert done.code == code
    assert words in done.said["msg"]
    version = given.get("version", "1.0.0")
    assert done.said["cniVersion"] == (version if version in VERSIONS else "1.1.0")


async def test_a_command_or_a_configuration_that_is_none(plugin: Path, runtime: Runtime) -> None:
    assert (await runtime("UPDATE")).code == 4
    for text in (b"", b"{", b"[]", b"\xff"):
        assert (await run(plugin, {"CNI_COMMAND": "ADD"}, text)).code == 6


async def test_what_a_runtime_adds_is_taken(server: Waiting, runtime: Runtime) -> None:
    server.say("programmed")
    added: Json = {
        "timeout": 5,
        "capabilities": {"portMappings": True},
        "runtimeConfig": {"portMappings": []},
        "cni.dev/attachments": [],
    }
    assert (await runtime("ADD", **added)).result == result()


# -- DEL, CHECK, STATUS, GC ------------------------------------------------------------------------


async def test_a_pod_that_ends_releases_its_addresses_as_often_as_it_ends(
    server: Waiting, runtime: Runtime
) -> None:
    for prev, drop in ((..., ""), (None, "CNI_NETNS"), ({"ips": [{}]}, "")):
        done = await runtime("DEL", prev=prev, drop=drop)
        assert (done.status, done.text, done.errors) == (0, "", "")
    bare = "release a/web-0 0f9c - c1 eth0"
    assert server.heard() == [f"release {LINE}", bare, bare]


async def test_the_end_of_a_pod_does_not_wait_for_an_enforcer(
    runtime: Runtime, tmp_path: Path
) -> None:
    done = await runtime("DEL", timeout=60)
    assert (done.status, done.text) == (0, "")
    assert "not released" in done.errors
    assert done.seconds < 1.5
    server = Waiting(tmp_path)
    await server.ready()
    server.pause()
    done = await runtime("DEL", timeout=60)
    assert (done.status, done.text) == (0, "")
    assert 1.5 < done.seconds < 6
    server.resume()
    await server.seen(lambda: server.heard() == [f"release {LINE}"])
    await server.stop()


async def test_the_end_of_a_pod_fails_by_no_mistake_of_the_configuration(
    runtime: Runtime,
) -> None:
    for given in ({"timeOut": 3}, {"onTimeout": "no"}, {"args": "FOO"}, {"args": ""}):
        done = await runtime("DEL", **given)
        assert (done.status, done.text) == (0, "")
    assert (await runtime("DEL", drop="CNI_CONTAINERID")).code == 4


async def test_check_asks_for_the_rules_again(server: Waiting, runtime: Runtime) -> None:
    assert (await runtime("CHECK", timeout=0.4)).code == 11
    server.say("programmed")
    done = await runtime("CHECK", version="0.4.0")
    assert (done.status, done.text) == (0, "")
    assert server.heard("claim")[-1] == f"claim {LINE}"
    assert (await runtime("CHECK", prev=None)).code == 7
    assert (await runtime("CHECK", version="0.3.1")).code == 1


async def test_status_is_whether_pods_can_be_added(runtime: Runtime, tmp_path: Path) -> None:
    assert (await runtime("STATUS", version="1.0.0")).code == 1
    given: Json = {"version": "1.1.0", "prev": None, "drop": "CNI_CONTAINERID"}
    assert (await runtime("STATUS", timeout=0.3, **given)).code == 50
    assert (await runtime("STATUS", timeout=0.3, onTimeout="allow", **given)).status == 0
    asking = asyncio.create_task(runtime("STATUS", **given))
    server = Waiting(tmp_path)
    await server.ready()
    done = await asking
    assert (done.status, done.text) == (0, "")
    await server.stop()


async def test_gc_has_nothing_to_collect(runtime: Runtime) -> None:
    valid: Json = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}
    done = await runtime("GC", version="1.1.0", prev=None, **valid)
    assert (done.status, done.text) == (0, "")
    assert (await runtime("GC", version="1.0.0", prev=None, **valid)).code == 1


def test_the_example_of_the_guide_is_right() -> None:
    guide = (Path(cni.__file__).parents[2] / "docs" / "cni.md").read_text()
    (text,) = re.findall(r"```json\n(\{\n.*?)```", guide, re.DOTALL)
    network = json.loads(text)
    (plugin,) = (p for p in network["plugins"] if p["type"] == "netpol-cni")
    config = cni.configuration({**plugin, "cniVersion": "1.0.0", "name": network["name"]})
    assert config == cni.Config(excluded=("networkpolicys", "kube-system"))
    for key in cni.OURS:
        assert f"| `{key}` |" in guide


# -- In a chain ------------------------------------------------------------------------------------


@contextmanager
def namespaces(*names: str) -> Iterator[None]:
    made: list[str] = []
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
            made.append(name)
        yield
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False)


def inside(netns: str, *words: str) -> str:
    words = ("ip", "netns", "exec", netns, *words)
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(not PLUGINS.exists(), reason="no CNI plugins here; .ci/setup fetches them")
@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
async def test_behind_ptp_and_host_local(
    server: Waiting, plugin: Path, tmp_path: Path, version: str
) -> None:
    """Real plugins, a real sandbox: the pod has its address, but does not start before its rules.

    The network is in a node of its own, whose end is the end of all that the plugins made.
    """
    node, pod = f"cni{os.getpid()}-node", f"cni{os.getpid()}-pod"
    subnets = [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]]
    ipam = {"type": "host-local", "ranges": subnets, "dataDir": str(tmp_path / "leases")}
    network = {
        "cniVersion": version,
        "name": "pods",
        "plugins": [
            {"type": "ptp", "ipam": ipam},
            {
                "type": "netpol-cni",
                "socket": str(server.socket),
                "timeout": 20,
                "args": {"cni": {}},
            },
        ],
    }
    environment = {
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": f"/run/netns/{pod}",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": ARGS,
    }
    prefix = ["ip", "netns", "exec", node]
    leases = tmp_path / "leases" / "pods"
    with namespaces(node, pod):
        for netns in (node, pod):  # no other has the address, so that nothing is waited for
            inside(netns, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        chain = Chain(network, [PLUGINS, plugin.parent], environment, prefix)
        adding = asyncio.create_task(chain.add())
        await server.seen(lambda: bool(server.heard("claim")))
        assert server.heard() == ["claim a/web-0 0f9c 10.77.0.2,fd77::2 c1 eth0"]
        assert "10.77.0.2/24" in inside(pod, "ip", "addr", "show", "eth0")
        await asyncio.sleep(0.2)
        assert not adding.done()
        server.say("programmed")
        made = await adding
        assert made["cniVersion"] == version
        assert [ip["address"] for ip in made["ips"]] == ["10.77.0.2/24", "fd77::2/64"]
        assert (leases / "10.77.0.2").exists()
        if version != "0.3.1":
            await chain.check()
        await chain.delete()
        assert server.heard("release") == ["release a/web-0 0f9c 10.77.0.2,fd77::2 c1 eth0"]
        assert not (leases / "10.77.0.2").exists()
        assert "eth0" not in inside(pod, "ip", "link")
        await chain.delete()
        # A pod whose rules do not come: the runtime takes back what the first plugin made.
        (server.folder / "programmed").unlink()
        network["plugins"][1]["timeout"] = 0.5  # type: ignore[index]
        failing = Chain(network, [PLUGINS, plugin.parent], environment, prefix)
        with pytest.raises(Failed) as failed:
            await failing.add()
        assert failed.value.done.code == 11
        assert len(list(leases.glob("10.*"))) == 1
        await failing.delete()
        assert server.heard("release")[-1] == "release a/web-0 0f9c - c1 eth0"
        assert not list(leases.glob("10.*"))
        assert "eth0" not in inside(pod, "ip", "link")
