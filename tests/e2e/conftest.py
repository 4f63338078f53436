"""kubectl against a real server, on SQLite and on etcd."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.lab.processes import Server
from tests.storage.etcd_cluster import EtcdServer

Kubectl = Callable[..., Coroutine[Any, Any, str]]


@pytest.fixture(scope="module", params=["sqlite", "etcd"])
async def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    folder = tmp_path_factory.mktemp("kubectl")
    etcd = EtcdServer(folder) if request.param == "etcd" else None
    started = Server(folder, *(("--etcd-servers", etcd.endpoint) if etcd else ()))
    try:
        await started.start()
        yield started
    finally:
        await started.stop()
        if etcd:
            etcd.kill()


@pytest.fixture
def kubectl(server: Server, tmp_path: Path) -> Kubectl:
    async def run(*words: str, fails: bool = False, editor: str = "true") -> str:
        """What kubectl printed, both streams; its exit status is checked."""
        process = await asyncio.create_subprocess_exec(
            "kubectl", "--server", server.url, *words,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "KUBECONFIG": "/dev/null", "HOME": str(tmp_path), "EDITOR": editor},
        )  # fmt: skip
        output, _ = await process.communicate()
        assert bool(process.returncode) is fails, output.decode()
        return output.decode()

    return run
