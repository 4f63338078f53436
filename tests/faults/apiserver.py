"""`netpol-apiserver` as a process where a fault wants it: in a namespace, under another clock."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from tests.faults.client import Broken, Client, NotSent, Server
from tests.lab.processes import Daemon, free_port

READY = 30.0  # seconds until it serves
ASKED = ("/readyz", "/api/v1/namespaces/default")  # the namespaces come just after readiness


class ApiServer(Daemon):
    """`kill` ends it as a crash would; `start` brings it back on the same port.

    `starts` counts how often it came up.
    """

    def __init__(
        self, folder: Path, *arguments: str, netns: str = "", prefix: Sequence[str] = ()
    ) -> None:
        folder.mkdir(exist_ok=True)
        port = free_port()
        self.address = Server(f"http://127.0.0.1:{port}", netns)
        self.starts = 0
        entered = ("ip", "netns", "exec", netns) if netns else ()
        super().__init__(
            "apiserver.main",
            ["--standalone", "--insecure-port", str(port), "--log-format", "json", *arguments],
            folder / "apiserver.log",
            prefix=[*entered, *prefix],
        )

    async def start(self) -> None:
        await super().start()
        client = Client([self.address])
        try:
            async with asyncio.timeout(READY):
                while not await _serves(client):
                    if not self.running:
                        raise RuntimeError(f"no server:\n{self.log.read_text()[-3000:]}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise RuntimeError(f"not ready:\n{self.log.read_text()[-3000:]}") from None
        finally:
            client.close()
        self.starts += 1


async def _serves(client: Client) -> bool:
    try:
        answers = [await client.request("GET", path) for path in ASKED]
    except (Broken, NotSent):
        return False
    return all(answer.status == 200 for answer in answers)
