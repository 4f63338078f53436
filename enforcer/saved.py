"""The last ruleset on disk: what holds after a reboot, until the API has been heard.

The kernel forgets its tables when the machine starts anew. A file that cannot be read or that is of
another version counts as none, with a line in the log.
"""

import os
import threading
import time
from pathlib import Path

import orjson
import structlog

from enforcer.ruleset import SCHEMA, Chain, NftSet, Ruleset

log = structlog.get_logger()
_WRITING = threading.Lock()


def place(folder: str, netns: str) -> Path | None:
    """The file for a network namespace; None where nothing is to be saved."""
    if not folder:
        return None
    name = f"ruleset-{netns.replace('/', '_')}.json" if netns else "ruleset.json"
    return Path(folder) / name


def encoded(rules: Ruleset) -> bytes:
    """What is written, in one piece: the ruleset must not change meanwhile."""
    return orjson.dumps(
        {
            "schema": SCHEMA,
            "saved": time.time(),
            "digest": rules.digest(),
            "sets": {n: (s.type, s.flags, s.verdicts, s.elements) for n, s in rules.sets.items()},
            "chains": {n: (c.hook, c.rules) for n, c in rules.chains.items()},
        }
    )


def remove(path: Path) -> None:
    """Nothing is saved any more, and nothing half-written either. `OSError`."""
    for file in (path, _part(path)):
        file.unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """Replace the file; after a crash there is the old one or the new one. `OSError`."""
    with _WRITING:  # one that was begun goes on when its waiter is cancelled
        _write(path, content)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path: Path) -> tuple[Ruleset, float] | None:
    """The ruleset and when it was saved, in seconds of the epoch."""
    try:
        content = orjson.loads(path.read_bytes())
        if content["schema"] != SCHEMA:
            raise ValueError(f"it is of schema {content['schema']}, not {SCHEMA}")
        rules = Ruleset()
        for name, (kind, flags, verdicts, elements) in content["sets"].items():
            rules.add_set(name, NftSet(kind, flags, verdicts))
            for key, verdict in elements.items():
                rules.put(name, key, verdict)
        for name, (hook, listed) in content["chains"].items():
            rules.add_chain(name, Chain(tuple(listed), hook))
        if rules.digest() != content["digest"]:
            raise ValueError("its digest is not that of its content")
        return rules, float(content["saved"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.error("the saved ruleset is of no use", file=str(path), error=str(error))
        return None


def _part(path: Path) -> Path:
    return path.with_suffix(".part")
