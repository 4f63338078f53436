"""The demo and the README's commands do what they say."""

import asyncio
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.lab.processes import Server

ROOT = Path(__file__).resolve().parents[2]


async def run(*words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *words, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_the_demo_is_right_in_every_probe_and_leaves_nothing() -> None:
    before = (await run("ip", "netns", "list"))[1]
    code, output = await run(sys.executable, "-m", "tests.e2e.demo")
    assert code == 0, output
    assert re.search(r"(\d+) of \1 probes were as the policies say", output), output
    assert "'reset'" in output
    assert (await run("ip", "netns", "list"))[1] == before


@pytest.mark.skipif(not shutil.which("kubectl"), reason="the transcript uses kubectl")
async def test_the_readme_shows_what_happens(tmp_path: Path) -> None:
    server = Server(tmp_path)
    await server.start()
    try:
        transcript = [
            block
            for block in re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
            if block.startswith(("$ kubectl", "$ curl"))
        ]
        assert len(transcript) == 4
        for block in transcript:
            for step in block.split("$ ")[1:]:
                command, _, shown = step.partition("\n")
                command = command.replace("http://127.0.0.1:8080", server.url)
                command = command.replace("kubectl ", f"kubectl --server {server.url} ")
                code, output = await run("bash", "-c", f"export KUBECONFIG=/dev/null; {command}")
                assert (code, output) == (0, shown), command
    finally:
        await server.stop()
