"""A wall clock that jumps, for one process: libfaketime. The monotonic clock stays as it is."""

from pathlib import Path

LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")  # Debian: libfaketime


class Clock:
    """`prefix` is the command that puts a process under it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "faketime"
        self.jump(0)
        settings = {
            "LD_PRELOAD": LIBRARY,
            "FAKETIME_TIMESTAMP_FILE": self._file,
            # Without a cache it reads the file for each look at the clock, at the server's price.
            "FAKETIME_CACHE_DURATION": 1,
            "FAKETIME_DONT_FAKE_MONOTONIC": 1,
            # The fix is for an old glibc; with a newer one it makes each wait for the GIL spin.
            "FAKETIME_FORCE_MONOTONIC_FIX": 0,
        }
        self.prefix = ("env", *(f"{name}={value}" for name, value in settings.items()))

    def jump(self, seconds: int) -> None:
        """To so many seconds from the true time; the process sees it within a second or two."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.replace(self._file)
