"""How one resource is followed: list, watch, resume, start over. A state machine without I/O.

`fetch` runs it: it performs the request that a state asks for, tells what came of it, and hands
the outputs to the model. client-go's reflector is the model for the rules: resume from the last
revision seen after a cut, list again after 410, wait longer after each failure.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

FIRST_WAIT = 0.1  # seconds after the first failure
LONGEST_WAIT = 10.0  # seconds: an enforcer must not be late by more when the server is back

Json = Mapping[str, Any]


class Phase(Enum):
    """What the reflector wants done next."""

    LIST = "list"
    WATCH = "watch"


@dataclass(frozen=True, slots=True)
class State:
    """`token` continues a list in pages; `items` are those of the pages so far.

    `wait` is how many seconds to let pass before the request.
    """

    phase: Phase = Phase.LIST
    revision: str = ""
    token: str = ""
    items: tuple[Json, ...] = ()
    failures: int = 0
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of a list arrived."""

    items: tuple[Json, ...]
    revision: str
    token: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the watch arrived."""

    event: Json


@dataclass(frozen=True, slots=True)
class Ended:
    """The watch ended in order: its time was over, or the server is going."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The revision or the continue token is no longer served, or not yet."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The request failed in any other way, a silent connection included."""


Input = Listed | Line | Ended | Gone | Failed


@dataclass(frozen=True, slots=True)
class Replace:
    """The whole state of the resource, at a revision."""

    items: tuple[Json, ...]
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Apply:
    """One change: the object as it is, or as it was last if `deleted`."""

    obj: Json
    deleted: bool = False


Output = Replace | Apply | None
Step = tuple[State, Output]


def advance(state: State, event: Input, rand: random.Random) -> Step:
    """The next state, and what the model is to be told."""
    return _TABLE[state.phase, type(event)](state, event, rand)


def _page(state: State, event: Listed, rand: random.Random) -> Step:
    items = (*state.items, *event.items)
    if event.token:
        return replace(state, token=event.token, items=items, wait=0.0), None
    return State(Phase.WATCH, revision=event.revision), Replace(items, event.revision)


def _line(state: State, event: Line, rand: random.Random) -> Step:
    kind, obj = event.event.get("type"), event.event.get("object")
    if not isinstance(obj, Mapping):
        return _failed(state, Failed(), rand)
    if kind == "ERROR":
        if gone(obj.get("code"), obj):
            return _gone(state, Gone(), rand)
        return _failed(state, Failed(), rand)
    metadata = obj.get("metadata")
    revision = metadata.get("resourceVersion") if isinstance(metadata, Mapping) else None
    state = replace(state, revision=str(revision or state.revision), failures=0, wait=0.0)
    if kind in ("ADDED", "MODIFIED"):
        return state, Apply(obj)
    if kind == "DELETED":
        return state, Apply(obj, deleted=True)
    return state, None


def gone(code: object, status: Json) -> bool:
    """Whether a revision or a continue token means nothing to the server any more.

    Or nothing yet: a server that was restored from a backup calls our revision too large.
    """
    details = status.get("details")
    causes = details.get("causes") if isinstance(details, Mapping) else None
    reasons = {cause.get("reason") for cause in causes or () if isinstance(cause, Mapping)}
    return (
        code == 410
        or status.get("reason") in ("Expired", "Gone")
        or "ResourceVersionTooLarge" in reasons
    )


def _ended(state: State, event: Ended, rand: random.Random) -> Step:
    # At least a little: a server that ends every watch at once must not be hammered.
    return replace(state, wait=FIRST_WAIT * rand.random()), None


def _gone(state: State, event: Gone, rand: random.Random) -> Step:
    return State(Phase.LIST, failures=state.failures, wait=FIRST_WAIT * rand.random()), None


def _failed(state: State, event: Failed, rand: random.Random) -> Step:
    longest = min(FIRST_WAIT * 2**state.failures, LONGEST_WAIT)
    failures = min(state.failures + 1, 16)
    wait = longest * (0.5 + rand.random() / 2)
    if state.phase is Phase.LIST:
        return State(Phase.LIST, failures=failures, wait=wait), None
    return replace(state, failures=failures, wait=wait), None


def _stray(state: State, event: Input, rand: random.Random) -> Step:
    return state, None


_TABLE: dict[tuple[Phase, type], Callable[..., Step]] = {
    (Phase.LIST, Listed): _page,
    (Phase.LIST, Line): _stray,
    (Phase.LIST, Ended): _stray,
    (Phase.LIST, Gone): _gone,
    (Phase.LIST, Failed): _failed,
    (Phase.WATCH, Listed): _stray,
    (Phase.WATCH, Line): _line,
    (Phase.WATCH, Ended): _ended,
    (Phase.WATCH, Gone): _gone,
    (Phase.WATCH, Failed): _failed,
}
