"""The lines' way out: it never blocks and never fails, whatever is behind it."""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from enforcer.flows.log import FlowLog

PROMPT = 1.0  # seconds; what does not wait takes a thousandth of it


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_lines_are_appended_to_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    for line in (b"one\n", b"two\n"):
        log = FlowLog(str(path))
        log.write(line)
        log.close()
        assert (log.written, log.dropped) == (1, 0)
    assert path.read_bytes() == b"one\ntwo\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    log = FlowLog(str(path))
    log.write(b"one\n")
    until(lambda: log.written == 1)
    path.rename(tmp_path / "flows.log.1")
    log.reopen()
    log.write(b"two\n")
    log.close()
    assert (tmp_path / "flows.log.1").read_bytes() == b"one\n"
    assert path.read_bytes() == b"two\n"


def test_a_full_disk_costs_lines_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    log = FlowLog("/dev/full")
    for _ in range(50):
        log.write(b"line\n")
    log.close()
    assert (log.written, log.dropped) == (0, 50)
    assert capsys.readouterr().out.count("flow records are lost") == 1


def test_it_writes_again_as_soon_as_it_can(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    log = FlowLog(str(folder / "flows.log"))
    log.write(b"one\n")
    until(lambda: log.dropped == 1)
    folder.mkdir()
    log.write(b"two\n")
    log.close()
    assert (folder / "flows.log").read_bytes() == b"two\n"
    assert (log.written, log.dropped) == (1, 1)


def test_a_pipe_that_nobody_reads_keeps_nobody_waiting(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        log = FlowLog(str(path), waiting=100)
        begun = time.monotonic()
        for _ in range(20_000):
            log.write(b"x" * 99 + b"\n")
        assert time.monotonic() - begun < PROMPT
        # A pipe holds 64 KiB; one line is on its way.
        assert log.dropped >= 20_000 - 656 - 100 - 1
        begun = time.monotonic()
        log.close(patience=0.1)
        assert time.monotonic() - begun < PROMPT
    finally:
        os.close(reader)


def test_what_a_slow_reader_cost_is_said_when_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        log = FlowLog(str(path), waiting=1)
        log.write(b"x" * 70_000 + b"\n")
        assert select.select([reader], [], [], 10)[0]  # the line is on its way
        for _ in range(4):
            log.write(b"line\n")
        assert log.dropped == 3
        while log.written < 2:
            with contextlib.suppress(BlockingIOError):
                os.read(reader, 1 << 16)
        log.close()
    finally:
        os.close(reader)
    said = capsys.readouterr().out
    assert "the reader is too slow" in said
    assert "lines=3" in said


def ending(script: str, *arguments: str, stdout: int) -> dict[str, int]:
    """What a process that logs says at its end."""
    done = subprocess.run(
        (sys.executable, "-c", f"from enforcer.flows.log import FlowLog\n{script}", *arguments),
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=30,
        check=True,
    )
    found: dict[str, int] = json.loads(done.stderr.splitlines()[-1])
    return found


SAY = "sys.stderr.write(json.dumps({'written': log.written, 'dropped': log.dropped}))"


def test_a_closed_pipe_does_not_end_the_process() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        script = f"""
import json, sys, structlog
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
log = FlowLog("-")
for _ in range(5):
    log.write(b"line\\n")
log.close()
{SAY}
"""
        assert ending(script, stdout=writer) == {"written": 0, "dropped": 5}
    finally:
        os.close(writer)


def test_a_line_that_was_torn_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    script = f"""
import json, resource, sys, time
log = FlowLog(sys.argv[1])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (15, hard))
log.write(b"123456789\\n")
log.write(b"abcdefghi\\n")
while not log.dropped:
    time.sleep(0.005)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
log.write(b"987654321\\n")
log.close()
{SAY}
"""
    assert ending(script, str(path), stdout=subprocess.DEVNULL) == {"written": 2, "dropped": 1}
    assert path.read_bytes() == b"123456789\nabcde\n987654321\n"
