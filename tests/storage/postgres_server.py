"""A real PostgreSQL for tests: its own data folder and port, ended by its own handle."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

INITDB = ("-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
USER = "postgres"  # the server refuses to run as root
# Folders of tests are for root alone: its user gets through them all the same.
CAPABILITIES = "+dac_override,+dac_read_search"
AS_USER = (
    "setpriv", "--reuid", USER, "--regid", USER, "--clear-groups",
    "--inh-caps", CAPABILITIES, "--ambient-caps", CAPABILITIES,
)  # fmt: skip
SETTINGS = (
    "unix_socket_directories=",
    "max_connections=60",
    "shared_buffers=64MB",
    "log_min_messages=warning",
    "autovacuum_naptime=10s",
)


class PostgresServer:
    """`kill` ends it as a crash would; `start` brings it back on the same data and port."""

    def __init__(
        self, folder: Path, *, port: int | None = None, address: str = "127.0.0.1"
    ) -> None:
        self._folder = folder / "postgresql"
        self._address = address
        self._port = port or _free_port(address)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql+asyncpg://{USER}@{address}:{self._port}/postgres"
        if not self._folder.exists():
            self._initialise()
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers. `RuntimeError` with the log where it does not."""
        settings = (f"listen_addresses={self._address}", f"port={self._port}", *SETTINGS)
        log = self._folder / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*AS_USER, _binary("postgres"), "-D", str(self._folder / "data")]
                + [part for setting in settings for part in ("-c", setting)],
                cwd=self._folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + 30
        while not self._ready():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(log.read_text(errors="replace")[-2000:])
            time.sleep(0.05)

    def database(self, name: str) -> str:
        """The URL of a new, empty database."""
        subprocess.run(
            [_binary("createdb"), "-h", self._address, "-p", str(self._port), "-U", USER, name],
            check=True,
        )
        return self.url.rpartition("/")[0] + f"/{name}"

    def kill(self) -> None:
        """SIGKILL for the postmaster and all of its children."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """An orderly end that waits for no client."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(20)
        self._process = None

    def pause(self) -> None:
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _initialise(self) -> None:
        self._folder.mkdir(parents=True)
        shutil.chown(self._folder, USER, USER)
        subprocess.run(
            [*AS_USER, _binary("initdb"), "-D", self._folder / "data", *INITDB],
            cwd=self._folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        # Its backends have process groups of their own: they are found by their parent.
        children = self._children()
        for pid in (self._process.pid, *children):
            _signal(pid, number)
        self._process.wait(20)
        self._process = None
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in children):
            if time.monotonic() > deadline:
                raise RuntimeError("a process of PostgreSQL does not end")
            time.sleep(0.01)

    def _signal_all(self, number: signal.Signals) -> None:
        if self._process is not None:
            for pid in (self._process.pid, *self._children()):
                _signal(pid, number)

    def _children(self) -> list[int]:
        assert self._process is not None
        task = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(pid) for pid in task.read_text().split()] if task.exists() else []

    def _ready(self) -> bool:
        command = [_binary("pg_isready"), "-q", "-h", self._address, "-p", str(self._port)]
        return subprocess.run(command, check=False).returncode == 0


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _binary(name: str) -> str:
    """Debian keeps the server's programs outside PATH, by version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else name


def _free_port(address: str) -> int:
    with socket.socket() as sock:
        sock.bind((address, 0))
        port: int = sock.getsockname()[1]
        return port
