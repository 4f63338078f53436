"""The wait socket as a process of its own; files in a folder say what its kernel holds.

usage: python -m tests.enforcer.waiting SOCKET FOLDER [WAITING]

A pod is programmed once `programmed` exists; `refused` and `broken` end a wait otherwise. What is
asked is written to `heard`, a line each.
"""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from enforcer.cni import wait
from enforcer.cni.claim import Claim, Refused
from tests.lab.processes import Daemon


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = asyncio.Event()

    def hear(self, word: str, claim: Claim) -> None:
        with (self.path / "heard").open("a") as heard:
            heard.write(f"{word} {line(claim)}\n")

    async def watch(self) -> None:
        while True:
            if any((self.path / name).exists() for name in ("programmed", "refused", "broken")):
                self._open.set()
            else:
                self._open.clear()
            await asyncio.sleep(0.01)

    async def programmed(self, claim: Claim) -> None:
        self.hear("claim", claim)
        try:
            await self._open.wait()
        except asyncio.CancelledError:
            self.hear("cancelled", claim)
            raise
        if (self.path / "refused").exists():
            raise Refused((self.path / "refused").read_text())
        if (self.path / "broken").exists():
            raise RuntimeError("broken")

    def released(self, claim: Claim) -> None:
        self.hear("release", claim)
        if (self.path / "broken").exists():
            raise RuntimeError("broken")


def line(claim: Claim) -> str:
    ips = ",".join(claim.ips) or "-"
    uid = claim.uid or "-"
    return f"{claim.namespace}/{claim.name} {uid} {ips} {claim.container_id} {claim.interface}"


class Waiting(Daemon):
    """The process, and its folder."""

    def __init__(self, folder: Path, *, waiting: int = wait.WAITING) -> None:
        self.folder = folder
        self.socket = folder / "run" / "wait.sock"
        arguments = [str(self.socket), str(folder), str(waiting)]
        # What is usual, so that more clients than descriptors are met.
        limit = ["prlimit", "--nofile=1024:1024"]
        super().__init__("tests.enforcer.waiting", arguments, folder / "log", prefix=limit)

    async def ready(self) -> None:
        await self.start()
        await self.until("pods may wait for their rules")

    def say(self, name: str, text: str = "") -> None:
        (self.folder / name).write_text(text)

    def heard(self, word: str = "") -> list[str]:
        file = self.folder / "heard"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if line.startswith(word)]

    async def seen(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 15
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()[-3000:] + str(self.heard())
            await asyncio.sleep(0.01)


async def _main(path: Path, folder: Path, waiting: int) -> None:
    told = Folder(folder)
    async with asyncio.TaskGroup() as tasks:
        watch = tasks.create_task(told.watch())
        server = tasks.create_task(
            wait.serve(
                path=path,
                programmed=told.programmed,
                released=told.released,
                waiting=waiting,
            )
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await server
        watch.cancel()


if __name__ == "__main__":
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    asyncio.run(_main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
