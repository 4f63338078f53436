"""How audit events are written to a file: whatever goes wrong is counted, and ends nothing."""

import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from apiserver.audit import log as audit_log
from apiserver.audit.log import Log
from apiserver.audit.rotation import RotatingFile
from apiserver.settings import MOST_DAYS, Settings


class Moody:
    """A sink that fails as it is told to, and may hang."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.data = b""
        self.open = threading.Event()
        self.open.set()

    def write(self, data: bytes) -> None:
        assert self.open.wait(10)
        if self.failures:
            raise self.failures.pop()
        self.data += data

    def close(self) -> None:
        pass


def kept(log: Log, line: bytes) -> bool:
    """Whether a line is written, once that is told."""
    heard, answers = threading.Event(), []

    def told(answer: bool) -> None:
        answers.append(answer)
        heard.set()

    log.add(line, told)
    assert heard.wait(10)
    return answers[0]


@pytest.mark.parametrize("error", [OSError("no space"), OverflowError("too far"), RuntimeError()])
async def test_no_failure_of_the_file_ends_the_log(error: Exception) -> None:
    sink = Moody(error)
    log = Log(sink)
    assert not kept(log, b"1\n")
    assert log.loss.count == 1
    assert kept(log, b"2\n")
    await log.close()
    assert (sink.data, log.loss.count) == (b"2\n", 1)


async def test_what_comes_after_the_end_is_lost_and_counted() -> None:
    sink = Moody()
    log = Log(sink)
    await log.close()
    assert not kept(log, b"1\n")
    assert (sink.data, log.loss.count) == (b"", 1)


async def test_what_a_slow_disk_has_not_taken_at_the_end_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit_log, "PATIENCE", 0.01)
    monkeypatch.setattr(audit_log, "CHUNK", 1)
    sink = Moody()
    log = Log(sink)
    assert kept(log, b"1\n")
    sink.open.clear()
    for number in range(3):
        log.add(b"%d\n" % number)
    await log.close()
    assert log.loss.count >= 2  # one of the three may be under way
    sink.open.set()


def test_files_are_kept_for_as_long_as_can_be_said(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=f"less than or equal to {MOST_DAYS}"):
        Settings(audit_log_maxage=MOST_DAYS + 1)
    path = tmp_path / "audit.log"
    file = RotatingFile(path, size=1, age=MOST_DAYS, backups=0, clock=lambda: 1.8e9)
    for line in (b"1\n", b"2\n"):
        file.write(line)
    file.close()
    assert len(list(tmp_path.iterdir())) == 2
