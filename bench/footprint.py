"""How much memory a process takes, as the kernel tells it."""

from dataclasses import dataclass
from pathlib import Path

MB = 1_000_000  # bytes


@dataclass(frozen=True, slots=True)
class Memory:
    """In MB: what is resident now, and the most that ever was."""

    resident: float
    peak: float

    @classmethod
    def of(cls, pid: int) -> "Memory":
        found = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )

        def megabytes(name: str) -> float:
            return int(found[name].split()[0]) * 1024 / MB

        return cls(megabytes("VmRSS"), megabytes("VmHWM"))
