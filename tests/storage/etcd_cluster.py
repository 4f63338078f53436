"""Three real etcd processes that form a cluster, each of which can be ended by its own handle."""

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.storage.etcd_server import free_ports

READY = 30.0  # seconds until a member answers
ASK = 1.0  # seconds that a question to a member may take


@dataclass(frozen=True, slots=True)
class Place:
    """Where a member runs: an address, in a network namespace or in that of the test."""

    address: str = "127.0.0.1"
    netns: str = ""


class Member:
    """`kill` ends it as a crash would; `start` brings it back on the same data and ports."""

    def __init__(self, name: str, folder: Path, place: Place, ports: tuple[int, int]) -> None:
        self.name = name
        client, peer = ports
        self.endpoint = f"http://{place.address}:{client}"
        self.peer = f"http://{place.address}:{peer}"
        self._folder = folder / name
        self._folder.mkdir()
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self, cluster: str, arguments: Sequence[str] = ()) -> None:
        """Start it, and do not wait: a member alone is not healthy."""
        entered = ("ip", "netns", "exec", self._place.netns) if self._place.netns else ()
        with (self._folder / "etcd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *entered,
                    shutil.which("etcd") or "/usr/bin/etcd",
                    f"--name={self.name}",
                    f"--data-dir={self._folder}/data",
                    f"--listen-client-urls={self.endpoint}",
                    f"--advertise-client-urls={self.endpoint}",
                    f"--listen-peer-urls={self.peer}",
                    f"--initial-advertise-peer-urls={self.peer}",
                    f"--initial-cluster={cluster}",
                    *arguments,
                ],
                stdout=log,
                stderr=log,
            )

    def until_healthy(self) -> None:
        """`RuntimeError` with its log where it does not come to be."""
        deadline = time.monotonic() + READY
        while not self.healthy():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise RuntimeError((self._folder / "etcd.log").read_text()[-2000:])
            time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/health", timeout=ASK) as answer:
                return b'"true"' in answer.read()
        except (urllib.error.URLError, OSError):
            return False

    def ask(self, path: str, body: dict[str, Any], *, timeout: float = ASK) -> dict[str, Any]:
        """A call of the JSON gateway, such as `maintenance/status`. `OSError`."""
        request = urllib.request.Request(
            f"{self.endpoint}/v3/{path}", data=json.dumps(body).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.kill(self._process.pid, number)


class EtcdCluster:
    """`members` may be killed, paused and brought back one by one; `kill` ends all."""

    def __init__(
        self,
        folder: Path,
        places: Sequence[Place] = (Place(),) * 3,
        *,
        arguments: Sequence[str] = (),
    ) -> None:
        ports = free_ports(2 * len(places))
        self.members = [
            Member(f"m{number}", folder, place, (ports[2 * number], ports[2 * number + 1]))
            for number, place in enumerate(places)
        ]
        self._cluster = ",".join(f"{member.name}={member.peer}" for member in self.members)
        self._arguments = arguments
        try:
            for member in self.members:
                member.launch(self._cluster, self._arguments)
            for member in self.members:
                member.until_healthy()
        except BaseException:
            self.kill()
            raise

    @property
    def endpoints(self) -> str:
        """As `--etcd-servers` takes them."""
        return ",".join(member.endpoint for member in self.members)

    def start(self, member: Member) -> None:
        """Bring back one that was killed, and wait until it serves."""
        member.launch(self._cluster, self._arguments)
        member.until_healthy()

    def kill(self) -> None:
        for member in self.members:
            member.kill()

    def leader(self) -> Member:
        """The member that most others follow. `RuntimeError` where there is none for long."""
        return self._find(lambda status: status["leader"] == status["header"]["member_id"])

    def follower(self) -> Member:
        return self._find(lambda status: status["leader"] != status["header"]["member_id"])

    def _find(self, true: Callable[[dict[str, Any]], bool]) -> Member:
        deadline = time.monotonic() + READY
        while time.monotonic() < deadline:
            for member in self.members:
                try:
                    status = member.ask("maintenance/status", {})
                except (OSError, ValueError):
                    continue
                if "leader" in status and true(status):
                    return member
            time.sleep(0.05)
        raise RuntimeError("the cluster has no leader")
