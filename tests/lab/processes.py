"""The real server and the real enforcer as processes, started and ended by their own handles."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Daemon:
    """A process with its log. `kill` is a crash, `stop` is SIGTERM.

    `prefix` is a command that becomes it, such as `ip netns exec` or `env`.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], log: Path, *, prefix: Sequence[str] = ()
    ) -> None:
        self._command = [*prefix, sys.executable, "-m", module, *arguments]
        self.log = log
        self._process: asyncio.subprocess.Process | None = None
        self._offset = 0

    async def start(self) -> None:
        self._offset = self.log.stat().st_size if self.log.exists() else 0
        environment = {k: v for k, v in os.environ.items() if not k.startswith("NETPOL_")}
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdout=output, stderr=output, env=environment
            )

    async def kill(self) -> None:
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """The exit status after SIGTERM."""
        return await self._end(signal.SIGTERM)

    async def wait(self) -> int:
        """The exit status of a process that ends by itself."""
        assert self._process is not None
        async with asyncio.timeout(15):
            return await self._process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def pause(self) -> None:
        self.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.send_signal(signal.SIGCONT)

    def events(self, name: str) -> list[dict[str, object]]:
        """The log lines of this run with that event, for logs that are JSON lines."""
        with self.log.open("rb") as lines:
            lines.seek(self._offset)
            # The last line may be half written yet.
            whole = [line for line in lines if line.startswith(b"{") and line.endswith(b"\n")]
        parsed = [json.loads(line) for line in whole]
        return [line for line in parsed if line.get("event") == name]

    async def until(self, name: str, *, seconds: float = 15.0) -> None:
        """Wait for a log line; `RuntimeError` with the log where it does not come."""
        deadline = time.monotonic() + seconds
        while not self.events(name):
            if time.monotonic() > deadline or not self.running:
                raise RuntimeError(f"no {name!r} in the log:\n{self.log.read_text()[-3000:]}")
            await asyncio.sleep(0.02)

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(number)
            try:
                async with asyncio.timeout(15):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
                raise
        code = self._process.returncode
        self._process = None
        return code or 0


# A server that forgets what was before as soon as it can.
FORGETFUL = ("--history-retention", "0s", "--compaction-interval", "100ms")


async def until_forgotten(http: httpx.AsyncClient, path: str, version: int) -> None:
    """Wait until the state of a collection at a version can no longer be read from the store."""
    exact = {"resourceVersion": str(version), "resourceVersionMatch": "Exact"}
    async with asyncio.timeout(15):
        while (await http.get(path, params=exact)).status_code != 410:
            await asyncio.sleep(0.02)


class Server(Daemon):
    """`netpol-apiserver --standalone` on a free port; `url` stays over restarts."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        stored: tuple[str, ...] = ()
        if not {"--database-url", "--etcd-servers"} & set(arguments):
            stored = ("--database-url", f"sqlite+aiosqlite:///{folder}/log.sqlite")
        super().__init__(
            "apiserver.main",
            [
                "--standalone",
                "--insecure-port",
                str(port),
                "--log-format",
                "json",
                *stored,
                *arguments,
            ],
            folder / "apiserver.log",
        )

    async def start(self) -> None:
        await super().start()
        deadline = time.monotonic() + 20
        async with httpx.AsyncClient(trust_env=False) as http:
            while True:
                try:
                    answer = await http.get(f"{self.url}/readyz")
                    # The first namespaces are made just after the cache is ready, this one last.
                    made = await http.get(f"{self.url}/api/v1/namespaces/default")
                    if answer.status_code == made.status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                if time.monotonic() > deadline or not self.running:
                    raise RuntimeError(f"no server:\n{self.log.read_text()[-3000:]}")
                await asyncio.sleep(0.02)


class EnforcerProcess(Daemon):
    """`netpol-enforcer run` for a network namespace; it serves at `url` and saves in the folder."""

    def __init__(
        self,
        folder: Path,
        *,
        server: str,
        netns: str,
        arguments: Sequence[str] = (),
        prefix: Sequence[str] = (),
    ) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.state = folder / "state"
        own = ["--metrics-bind-address", f"127.0.0.1:{port}", "--state-dir", str(self.state)]
        super().__init__(
            "enforcer.main",
            ["run", "--server", server, "--netns", netns, *own, *arguments],
            folder / "enforcer.log",
            prefix=prefix,
        )

    async def start(self) -> None:
        await super().start()
        await self.until("enforcing")

    async def begin(self) -> None:
        """Start, and wait for nothing."""
        await super().start()
