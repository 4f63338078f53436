"""Files that somebody else replaces while the server runs: certificates, authorities, tokens."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

EVERY = 1.0  # seconds between two looks

log = structlog.get_logger()

Stamp = tuple[int, int, int] | None


def stamp(path: Path) -> Stamp:
    """Something that differs once the file has been replaced; None where there is none."""
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_ino, seen.st_size


async def follow(paths: Sequence[Path], changed: Callable[[], None], *, what: str) -> None:
    """Call `changed` after any of the files was replaced, for ever.

    Where it fails (`OSError`, `ValueError`: half written, or no such thing), what was before stays,
    and it is called again when they change again.
    """
    before = [stamp(path) for path in paths]
    while True:
        await asyncio.sleep(EVERY)
        now = [stamp(path) for path in paths]
        if now == before:
            continue
        before = now
        try:
            changed()
        except (OSError, ValueError) as error:
            log.error(
                f"{what} cannot be read; what was before stays",
                error=str(error),
                reason="FailedReload",
            )
        else:
            log.info(f"{what} read again", files=[str(path) for path in paths])
