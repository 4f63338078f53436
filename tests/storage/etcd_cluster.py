"""Real etcd processes that form a cluster, each of which can be ended by its own handle."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY = 30.0  # seconds until a member answers
ASK = 1.0  # seconds that a question to a member may take


@dataclass(frozen=True, slots=True)
class Place:
    """Where a member runs: an address, in a network namespace or in that of the test."""

    address: str = "127.0.0.1"
    netns: str = ""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM: what the members show to clients, and what they and their clients trust.

    Clients must show a certificate too.
    """

    ca: Path
    cert: Path
    key: Path


class Member:
    """`kill` ends it as a crash would; `EtcdCluster.start` brings it back on the same data."""

    def __init__(
        self, name: str, folder: Path, place: Place, ports: tuple[int, int], tls: Tls | None
    ) -> None:
        self.name = name
        client, peer = ports
        self.endpoint = f"{'https' if tls else 'http'}://{place.address}:{client}"
        self.peer = f"http://{place.address}:{peer}"
        self._folder = folder / name
        self._folder.mkdir()
        self._place = place
        self._tls = tls
        self._context = None if tls is None else ssl.create_default_context(cafile=tls.ca)
        if tls is not None and self._context is not None:
            self._context.load_cert_chain(tls.cert, tls.key)
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self, binary: Path, cluster: str, arguments: Sequence[str] = ()) -> None:
        """Start it, and do not wait: a member alone is not healthy."""
        secured = (
            []
            if self._tls is None
            else [
                "--client-cert-auth",
                f"--trusted-ca-file={self._tls.ca}",
                f"--cert-file={self._tls.cert}",
                f"--key-file={self._tls.key}",
            ]
        )
        entered = ("ip", "netns", "exec", self._place.netns) if self._place.netns else ()
        with (self._folder / "etcd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *entered,
                    binary,
                    f"--name={self.name}",
                    f"--data-dir={self._folder}/data",
                    f"--listen-client-urls={self.endpoint}",
                    f"--advertise-client-urls={self.endpoint}",
                    f"--listen-peer-urls={self.peer}",
                    f"--initial-advertise-peer-urls={self.peer}",
                    f"--initial-cluster={cluster}",
                    *secured,
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

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def healthy(self) -> bool:
        try:
            url = f"{self.endpoint}/health"
            with urllib.request.urlopen(url, timeout=ASK, context=self._context) as answer:
                return b'"true"' in answer.read()
        except (urllib.error.URLError, OSError):
            return False

    def ask(self, path: str, body: dict[str, Any], *, timeout: float = ASK) -> dict[str, Any]:
        """A call of the JSON gateway, such as `maintenance/status`. `OSError`."""
        request = urllib.request.Request(
            f"{self.endpoint}/v3/{path}", data=json.dumps(body).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=timeout, context=self._context) as answer:
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
        binary: Path | None = None,
        arguments: Sequence[str] = (),
        tls: Tls | None = None,
    ) -> None:
        ports = free_ports(2 * len(places))
        self.members = [
            Member(f"m{number}", folder, place, (ports[2 * number], ports[2 * number + 1]), tls)
            for number, place in enumerate(places)
        ]
        self._cluster = ",".join(f"{member.name}={member.peer}" for member in self.members)
        self._binary = binary or Path(shutil.which("etcd") or "/usr/bin/etcd")
        self._arguments = arguments
        try:
            for member in self.members:
                member.launch(self._binary, self._cluster, self._arguments)
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
        member.launch(self._binary, self._cluster, self._arguments)
        member.until_healthy()

    def start_all(self) -> None:
        """Bring back all that were killed: fewer than half of them serve nothing."""
        gone = [member for member in self.members if not member.running]
        for member in gone:
            member.launch(self._binary, self._cluster, self._arguments)
        for member in gone:
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


class EtcdServer:
    """A cluster of one. `kill` ends it as a crash would; `start` brings it back."""

    def __init__(self, folder: Path, *, binary: Path | None = None) -> None:
        self._cluster = EtcdCluster(folder, (Place(),), binary=binary)
        self.endpoint = self._cluster.endpoints

    @property
    def member(self) -> Member:
        return self._cluster.members[0]

    def start(self) -> None:
        self._cluster.start(self.member)

    def kill(self) -> None:
        self._cluster.kill()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()
