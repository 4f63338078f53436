"""Pods that are being started: the plugin, the enforcer's wait socket, and the first packets."""

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enforcer.cni import plugin
from tests.lab.agents import Probe
from tests.lab.cluster import PodSpec
from tests.netns.conftest import Lab
from tests.netns.own import ALLOWED, BACK, DENIED, OWNED, judged, running

RANGES = ("--pod-cidr", "10.66.0.0/24", "--pod-cidr", "fd66::/64")
STARTING = replace(BACK, ips=())  # as the API knows a pod before its kubelet has told the addresses
TRY_AGAIN_LATER, REFUSED = 11, 100


class Sandbox:
    """What a container runtime does for a pod."""

    def __init__(self, path: Path, pod: PodSpec, container: str, ips: tuple[str, ...]) -> None:
        bits = {ip: 128 if ":" in ip else 32 for ip in ips}
        result = {"cniVersion": "1.0.0", "ips": [{"address": f"{ip}/{bits[ip]}"} for ip in ips]}
        self._config = {
            "cniVersion": "1.0.0",
            "name": "net",
            "type": "netpol-cni",
            "socket": str(path),
            "prevResult": result,
        }
        pod_is = f"K8S_POD_NAMESPACE={pod.namespace};K8S_POD_NAME={pod.name}"
        self._environment = {
            "CNI_CONTAINERID": container,
            "CNI_NETNS": f"/run/netns/{container}",
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"IgnoreUnknown=1;{pod_is}",
        }

    async def run(self, verb: str, *, timeout: float = 10.0) -> dict[str, Any]:
        """What the plugin says; nothing where it has nothing to say."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-IS", plugin.__file__),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**self._environment, "CNI_COMMAND": verb},
        )
        content = json.dumps({**self._config, "timeout": timeout})
        output, _ = await process.communicate(content.encode())
        found: dict[str, Any] = json.loads(output) if output else {}
        assert (process.returncode == 0) is ("code" not in found)
        return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "wait.sock"


async def restarted(lab: Lab) -> None:
    """`back` is another pod of the name, and has no address yet."""
    await lab.api.delete("/api/v1/namespaces/a/pods/back")
    await lab.api.pod(STARTING)


async def test_D14_a_claimed_pod_is_reachable_when_the_answer_comes_and_not_before(
    vacant: Lab, tmp_path: Path, path: Path
) -> None:
    async with running(vacant, tmp_path, *OWNED, *RANGES, "--wait-socket", str(path)) as lab:
        await restarted(lab)
        await lab.settled()
        await judged(lab, allowed=False)
        sandbox = Sandbox(path, BACK, "c1", BACK.ips)
        told = await sandbox.run("ADD")
        await judged(lab)
        assert [entry["address"] for entry in told["ips"]] == ["10.66.0.12/32", "fd66::12/128"]
        assert await sandbox.run("DEL") == {}
        await lab.settled()
        await judged(lab, allowed=False)
        # It starts all the same, and the API gets to know it.
        await sandbox.run("ADD")
        committed = len(lab.enforcer.events("committed"))
        await lab.api.address("a", "back", BACK.ips)
        await asyncio.sleep(0.3)
        assert len(lab.enforcer.events("committed")) == committed
        await sandbox.run("DEL")
        await lab.settled()
        await judged(lab)


async def test_D14_a_sandbox_that_is_made_anew_has_its_own_addresses(
    vacant: Lab, tmp_path: Path, path: Path
) -> None:
    async with running(vacant, tmp_path, *OWNED, *RANGES, "--wait-socket", str(path)) as lab:
        await restarted(lab)
        await lab.settled()
        first, second = (Sandbox(path, BACK, f"c{n}", (BACK.ips[n],)) for n in (0, 1))

        async def open_to() -> tuple[bool, ...]:
            have = await lab.agents.probe([*ALLOWED, *DENIED])
            assert not any(have[probe] for probe in DENIED)
            return tuple(have[probe] for probe in ALLOWED)

        assert await open_to() == (False, False)
        await first.run("ADD")
        assert await open_to() == (True, False)
        await second.run("ADD")
        assert await open_to() == (False, True)
        # The old one is torn down after the new one was set up.
        await first.run("DEL")
        assert await open_to() == (False, True)
        await second.run("DEL")
        await lab.settled()
        assert await open_to() == (False, False)
        unknown = Sandbox(path, replace(BACK, name="nobody"), "c3", ("10.66.0.99",))
        assert (await unknown.run("ADD", timeout=0.5))["code"] == TRY_AGAIN_LATER
        away = replace(STARTING, name="away", fields={"nodeName": "node-2"})
        await lab.api.pod(away)
        told = await Sandbox(path, away, "c4", ("10.66.0.98",)).run("ADD")
        assert told["code"] == REFUSED
        assert "a/away is on node node-2" in told["msg"]


async def test_a_pod_waits_over_a_crash_of_the_enforcer(
    vacant: Lab, tmp_path: Path, path: Path
) -> None:
    async with running(vacant, tmp_path, *OWNED, *RANGES, "--wait-socket", str(path)) as lab:
        await lab.api.delete("/api/v1/namespaces/a/pods/back")
        await lab.settled()
        waiting = asyncio.create_task(Sandbox(path, BACK, "c1", BACK.ips).run("ADD", timeout=30))
        await asyncio.sleep(0.4)
        await lab.enforcer.kill()
        await lab.enforcer.start()
        assert not waiting.done()
        probes = [Probe("front", BACK.ips[0], "tcp", 80)]
        assert not any((await lab.agents.probe(probes)).values())
        await lab.api.pod(STARTING)
        assert "code" not in await waiting
        await judged(lab)
