"""What a process of the benchmarks needs before it starts others."""

import resource
import signal

FILES = 8_192  # open files: 1,000 watchers of each of two servers, and what else there is


def prepare() -> None:
    """Let this process and its children open enough files, and end all of them when told to end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        raise SystemExit(f"{FILES} open files are needed, and the limit is {hard}")
    if soft != resource.RLIM_INFINITY and soft < FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
    signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, frame: object) -> None:
    """As an exception it passes through the blocks that own the processes."""
    raise SystemExit(128 + number)
