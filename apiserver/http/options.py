"""The query parameters of a request as typed options, with upstream's errors.

Pure. For a repeated parameter the first value counts; unknown ones are ignored.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from apiserver.api import status
from apiserver.api.status import Cause
from apiserver.registry.reader import ListOptions, check_match
from apiserver.registry.writer import Preconditions

FIELD_VALIDATION = ("", "Ignore", "Strict", "Warn")
PROPAGATION = ("Foreground", "Background", "Orphan")
MANAGER_LIMIT = 128  # bytes
INT64_DIGITS = 20
FINALIZERS = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """What a watch was asked.

    `revision` is what it goes on after; with `state` it begins with the present objects, whose end
    the annotated bookmark tells if it is `marked`. `timeout` is in seconds, None: not said.
    """

    revision: int | None
    state: bool
    marked: bool
    bookmarks: bool
    timeout: float | None


class WriteOptions(NamedTuple):
    """What a create, update or patch was asked: `validation` is Ignore, Warn or Strict.

    `manager` owns what is written; `force` lets an apply take fields from others.
    """

    dry_run: bool
    validation: str
    manager: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """What a delete was asked, from its body and its query together.

    `accepted`: a deletion that is not done at once is answered with 202, as of old for
    orphanDependents=false.
    """

    dry_run: bool = False
    preconditions: Preconditions = field(default_factory=Preconditions)
    finalizers: tuple[str, ...] = ()
    accepted: bool = False


def number(query: Mapping[str, str], name: str) -> int | None:
    """An integer parameter. 400 with Go's words for anything else."""
    text = query.get(name, "")
    if not text:
        return None
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise _unreadable(name, f'strconv.ParseInt: parsing "{text}": invalid syntax')
    if len(text) > INT64_DIGITS or not -(1 << 63) <= int(text) < 1 << 63:
        raise _unreadable(name, f'strconv.ParseInt: parsing "{text}": value out of range')
    return int(text)


def truth(query: Mapping[str, str], name: str) -> bool | None:
    text = query.get(name)
    return None if text is None else text.lower() not in ("0", "false")


def revision(query: Mapping[str, str]) -> int | None:
    """`resourceVersion`: None where absent or empty. 400 where it is no unsigned integer."""
    text = query.get("resourceVersion", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) < 1 << 64):
        raise status.bad_request(
            f'invalid resource version: resourceVersion: Invalid value: "{text}": '
            f'strconv.ParseUint: parsing "{text}": invalid syntax'
        )
    return int(text)


def listing(query: Mapping[str, str]) -> ListOptions:
    if query.get("export"):
        raise status.bad_request(
            "the export parameter, deprecated since v1.14, is no longer supported"
        )
    return ListOptions(
        revision=revision(query),
        match=query.get("resourceVersionMatch", ""),
        limit=max(number(query, "limit") or 0, 0),
        token=query.get("continue", ""),
    )


def watching(query: Mapping[str, str]) -> WatchOptions:
    """400 or 422 for what a watch cannot be asked."""
    asked, initial = listing(query), truth(query, "sendInitialEvents")
    check_match("ListOptions", asked, watch=True, initial=initial)
    seconds = number(query, "timeoutSeconds")
    return WatchOptions(
        revision=asked.revision,
        state=not asked.revision if initial is None else initial,
        marked=bool(initial),
        bookmarks=bool(truth(query, "allowWatchBookmarks")),
        timeout=max(float(seconds), 0.0) if seconds else None,
    )


def writing(
    kind: str, query: Mapping[str, str], values: list[str], *, agent: str, apply: bool = False
) -> WriteOptions:
    """422 on a bad dryRun, fieldValidation, fieldManager or a misplaced force.

    `values` are all values of dryRun; `kind` names the options in the message; `agent` is the
    User-Agent, whose first word is the manager where none is named.
    """
    if not (query or apply):
        return WriteOptions(False, "Warn", _of_agent(agent))
    manager, force = query.get("fieldManager", ""), bool(truth(query, "force"))
    causes = []
    if apply and not manager:
        text = "Required value: is required for apply patch"
        causes.append(Cause("FieldValueRequired", text, "fieldManager"))
    if force and kind == "PatchOptions" and not apply:
        text = "Forbidden: may not be specified for non-apply patch"
        causes.append(Cause("FieldValueForbidden", text, "force"))
    causes += _manager_causes(manager)
    causes += _dry_run_causes(values)
    validation = query.get("fieldValidation", "")
    if validation not in FIELD_VALIDATION:
        causes.append(_unsupported("fieldValidation", f'"{validation}"', FIELD_VALIDATION))
    if causes:
        raise status.invalid_options(kind, *causes)
    return WriteOptions(bool(values), validation or "Warn", manager or _of_agent(agent), force)


def _manager_causes(manager: str) -> list[Cause]:
    causes = []
    if len(manager.encode()) > MANAGER_LIMIT:
        text = f"Too long: may not be more than {MANAGER_LIMIT} bytes"
        causes.append(Cause("FieldValueTooLong", text, "fieldManager"))
    for index, char in enumerate(manager):
        if not char.isprintable():
            text = (
                f'Invalid value: "{manager.encode("unicode_escape").decode()}": invalid character'
                f" U+{ord(char):04X} (at position {index})"
            )
            causes.append(Cause("FieldValueInvalid", text, "fieldManager"))
    return causes


def _of_agent(agent: str) -> str:
    """The program's name: what stands before the first slash."""
    name = agent.partition("/")[0]
    if not name.isprintable():
        name = "".join(char for char in name if char.isprintable())
    return name.encode()[:MANAGER_LIMIT].decode(errors="ignore") or "unknown"


def deleting(query: Mapping[str, str], values: list[str], body: Mapping[str, Any]) -> DeleteOptions:
    """Merge the body's options with the query's; a contradiction is 400, so neither is lost."""

    def both(name: str, asked: object) -> object:
        given = body.get(name)
        if given is not None and asked is not None and given != asked:
            raise status.bad_request(
                f"{name} is {asked!r} in the query and {given!r} in the body; send one of them"
            )
        return asked if given is None else given

    kind = "DeleteOptions"
    dry = both("dryRun", values or None) or []
    if not isinstance(dry, list):
        raise status.bad_request("dryRun must be a list")
    both("gracePeriodSeconds", number(query, "gracePeriodSeconds"))
    policy = both("propagationPolicy", query.get("propagationPolicy"))
    orphan = both("orphanDependents", truth(query, "orphanDependents"))
    causes = []
    if policy is not None and orphan is not None:
        text = (
            f'Invalid value: "{policy}": orphanDependents and deletionPropagation cannot be'
            " both set"
        )
        causes.append(Cause("FieldValueInvalid", text, "propagationPolicy"))
    if policy is not None and policy not in PROPAGATION:
        causes.append(_unsupported("propagationPolicy", f'"{policy}"', (*PROPAGATION, "nil")))
    causes += _dry_run_causes([str(value) for value in dry])
    if causes:
        raise status.invalid_options(kind, *causes)
    if orphan:
        policy = "Orphan"
    demands = body.get("preconditions") or {}
    if not isinstance(demands, dict):
        raise status.bad_request("preconditions must be an object")
    finalizer = FINALIZERS.get(str(policy))
    return DeleteOptions(
        bool(dry),
        Preconditions(demands.get("uid"), demands.get("resourceVersion")),
        (finalizer,) if finalizer else (),
        accepted=orphan is False,
    )


def _dry_run_causes(values: list[str]) -> list[Cause]:
    if all(value == "All" for value in values):
        return []
    shown = ",".join(f'"{value}"' for value in values)
    return [_unsupported("dryRun", f"[{shown}]", ("All",))]


def _unsupported(field: str, value: str, supported: Sequence[str]) -> Cause:
    names = ", ".join(f'"{name}"' for name in supported)
    text = f"Unsupported value: {value}: supported values: {names}"
    return Cause("FieldValueNotSupported", text, field)


def _unreadable(name: str, why: str) -> status.StatusError:
    """The text is Go's; the cause says which parameter it speaks of."""
    error = status.bad_request(why)
    error.details, error.causes = {}, [Cause("FieldValueInvalid", why, name)]
    return error
