"""What one resource adds to the generic registry: its defaults, its checks, its way to go.

The registry calls these in a fixed order on every write; a strategy never touches the store.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apiserver.api.resource import Resource
from apiserver.api.status import Cause

Json = dict[str, Any]


def _same(obj: Json) -> tuple[Json, Sequence[str]]:
    return obj, ()


def _untouched(obj: Json) -> None:
    return None


def _valid(obj: Mapping[str, Any]) -> Sequence[Cause]:
    return ()


def _no(obj: Mapping[str, Any]) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """The behaviour of one resource.

    normalise   old spellings to the canonical one, with a warning for each change, before
                unknown fields are looked for; may raise a StatusError
    prepare     fill in what a new object lacks, in place
    validate    every error of an object, one cause a field
    warn        what a client should be told about an object that is accepted
    plain       whether an object, as it was sent, is known at once to be valid and canonical
    linger      whether a deleted object must stay, terminating, until its owner lets it go
    terminate   mark such an object, in place
    closed      top-level fields in which an unknown key is an error, never dropped
    generation  whether metadata.generation counts the changes of anything but metadata and status
    immortal    names that cannot be deleted
    """

    resource: Resource
    normalise: Callable[[Json], tuple[Json, Sequence[str]]] = _same
    prepare: Callable[[Json], None] = _untouched
    validate: Callable[[Mapping[str, Any]], Sequence[Cause]] = _valid
    warn: Callable[[Mapping[str, Any]], Sequence[str]] = lambda obj: ()
    plain: Callable[[Mapping[str, Any]], bool] = _no
    linger: Callable[[Mapping[str, Any]], bool] = _no
    terminate: Callable[[Json], None] = _untouched
    closed: frozenset[str] = frozenset()
    generation: bool = False
    immortal: frozenset[str] = frozenset()
