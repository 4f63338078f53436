"""A small disk that a test makes, fills and frees."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHUNKS = (1 << 20, 4 << 10, 1)  # bytes written at once, until no more go in


@dataclass(frozen=True, slots=True)
class Disk:
    folder: Path

    def fill(self) -> None:
        """To the last byte."""
        with self._ballast.open("ab", buffering=0) as ballast:
            for size in CHUNKS:
                try:
                    while ballast.write(b"x" * size) == size:
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"


@contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[Disk]:
    """Mounted at the folder, and gone at the end; who uses it has ended before."""
    folder.mkdir()
    command = ("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(folder))
    subprocess.run(command, check=True)
    try:
        yield Disk(folder)
    finally:
        # Lazily: also where a process that a failed test left still has a file open.
        subprocess.run(("umount", "-l", str(folder)), check=True)
