"""The file of the audit log: it is put aside when it is full, and old ones are removed.

The names, the order and the rules are those of lumberjack, which kube-apiserver writes with:
`audit.log` becomes `audit-2026-11-26T08-20-50.123.log`. Called from the thread of `log` alone.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

MODE = 0o600  # who may do what, and who did, is nobody else's business
STAMP = "%Y-%m-%dT%H-%M-%S.%f"
MILLISECOND = timedelta(milliseconds=1)
STAMP_DIGITS = -3  # of the microseconds that Python writes; lumberjack has milliseconds

log = structlog.get_logger()


class RotatingFile:
    """Opened with the first write, and again with the next one after an `OSError`.

    `size` is in bytes. Of the files put aside `backups` are kept, each for `age` days; 0: no limit.
    """

    def __init__(
        self, path: Path, *, size: int, age: int, backups: int, clock: Callable[[], float]
    ) -> None:
        self._path = path
        self._size = size
        self._age = age
        self._backups = backups
        self._clock = clock
        self._file: int | None = None
        self._held = 0  # bytes
        self._last = datetime.fromtimestamp(0, UTC)  # when one was put aside: names are in order

    def write(self, data: bytes) -> None:
        """Whole lines. `OSError` where not all of them could be written; then none is there."""
        try:
            if self._file is None:
                self._open()
            if self._held and self._held + len(data) > self._size:
                self._put_aside()
            self._append(data)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):
                os.close(file)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, MODE)
        self._held = os.fstat(self._file).st_size
        self._prune()

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        try:
            write_all(self._file, data)
        except OSError:
            with contextlib.suppress(OSError):  # what is no file cannot be shortened
                os.ftruncate(self._file, self._held)
            raise
        self._held += len(data)

    def _put_aside(self) -> None:
        moment = max(datetime.fromtimestamp(self._clock(), UTC), self._last + MILLISECOND)
        while (there := self._path.with_name(self._named(moment))).exists():
            moment += MILLISECOND
        self._last = moment
        self.close()
        with contextlib.suppress(FileNotFoundError):  # somebody else took it away
            self._path.rename(there)
        self._open()

    def _named(self, moment: datetime) -> str:
        stamp = moment.strftime(STAMP)[:STAMP_DIGITS]
        return f"{self._path.stem}-{stamp}{self._path.suffix}"

    def _prune(self) -> None:
        oldest = datetime.fromtimestamp(self._clock(), UTC) - timedelta(days=self._age)
        for place, (moment, path) in enumerate(sorted(self._aside(), reverse=True)):
            if (self._backups and place >= self._backups) or (self._age and moment < oldest):
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    log.error("an old audit log cannot be removed", error=str(error))

    def _aside(self) -> Iterator[tuple[datetime, Path]]:
        start = f"{self._path.stem}-"
        for path in self._path.parent.iterdir():
            if path.name.startswith(start) and path.suffix == self._path.suffix:
                text = path.name[len(start) : len(path.name) - len(path.suffix)]
                with contextlib.suppress(ValueError):
                    yield datetime.strptime(text, STAMP).replace(tzinfo=UTC), path


class StandardOutput:
    """For `--audit-log-path -`."""

    def write(self, data: bytes) -> None:
        write_all(1, data)

    def close(self) -> None:
        """Others write there as well."""


def write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
