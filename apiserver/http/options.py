"""The query parameters of a request as typed options, with upstream's errors.

Pure. For a repeated parameter the first value counts; unknown ones are ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from apiserver.api import status
from apiserver.api.status import Cause
from apiserver.registry.reader import ListOptions
from apiserver.registry.writer import Preconditions

FIELD_VALIDATION = ("", "Ignore", "Strict", "Warn")
PROPAGATION = ("Foreground", "Background", "Orphan")
FINALIZERS = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """What a create, update or patch was asked: `validation` is Ignore, Warn or Strict."""

    dry_run: bool
    validation: str


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """What a delete was asked, from its body and its query together."""

    dry_run: bool = False
    preconditions: Preconditions = field(default_factory=Preconditions)
    finalizers: tuple[str, ...] = ()


def number(query: Mapping[str, str], name: str) -> int | None:
    """An integer parameter. 400 with Go's words for anything else."""
    text = query.get(name, "")
    if not text:
        return None
    try:
        return int(text.encode("ascii"))
    except ValueError:
        raise status.bad_request(
            f'{name}: strconv.ParseInt: parsing "{text}": invalid syntax'
        ) from None


def truth(query: Mapping[str, str], name: str) -> bool | None:
    text = query.get(name)
    return None if text is None else text.lower() not in ("0", "false")


def revision(query: Mapping[str, str]) -> int | None:
    """`resourceVersion`: None where absent or empty. 400 where it is no unsigned integer."""
    text = query.get("resourceVersion", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise status.bad_request(
            f'invalid resource version: resourceVersion: Invalid value: "{text}": '
            f'strconv.ParseUint: parsing "{text}": invalid syntax'
        )
    return int(text)


def listing(query: Mapping[str, str]) -> ListOptions:
    return ListOptions(
        revision=revision(query),
        match=query.get("resourceVersionMatch", ""),
        limit=max(number(query, "limit") or 0, 0),
        token=query.get("continue", ""),
    )


def writing(kind: str, query: Mapping[str, str], values: list[str]) -> WriteOptions:
    """422 on a bad dryRun, fieldValidation, fieldManager or a misplaced force.

    `values` are all values of dryRun; `kind` names the options in the message.
    """
    _check_dry_run(kind, values)
    validation = query.get("fieldValidation", "")
    if validation not in FIELD_VALIDATION:
        supported = ", ".join(f'"{value}"' for value in FIELD_VALIDATION)
        raise status.invalid_options(
            kind,
            Cause(
                "FieldValueNotSupported",
                f'Unsupported value: "{validation}": supported values: {supported}',
                "fieldValidation",
            ),
        )
    manager = query.get("fieldManager", "")
    if len(manager.encode()) > 128:
        raise status.invalid_options(
            kind,
            Cause("FieldValueTooLong", "Too long: may not be more than 128 bytes", "fieldManager"),
        )
    if not manager.isprintable():
        raise status.invalid_options(
            kind,
            Cause(
                "FieldValueInvalid",
                "Invalid value: should only contain printable characters",
                "fieldManager",
            ),
        )
    if kind == "PatchOptions" and truth(query, "force"):
        raise status.invalid_options(
            kind,
            Cause(
                "FieldValueForbidden",
                "Forbidden: may not be specified for non-apply patch",
                "force",
            ),
        )
    return WriteOptions(dry_run=bool(values), validation=validation or "Warn")


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
    _check_dry_run(kind, [str(value) for value in dry])
    both("gracePeriodSeconds", number(query, "gracePeriodSeconds"))
    policy = both("propagationPolicy", query.get("propagationPolicy"))
    orphan = both("orphanDependents", truth(query, "orphanDependents"))
    if policy is not None and orphan is not None:
        raise status.invalid_options(
            kind,
            Cause(
                "FieldValueInvalid",
                f'Invalid value: "{policy}": orphanDependents and deletionPropagation cannot be'
                " both set",
                "propagationPolicy",
            ),
        )
    if policy is not None and policy not in PROPAGATION:
        supported = ", ".join(f'"{value}"' for value in (*PROPAGATION, "nil"))
        raise status.invalid_options(
            kind,
            Cause(
                "FieldValueNotSupported",
                f'Unsupported value: "{policy}": supported values: {supported}',
                "propagationPolicy",
            ),
        )
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
    )


def _check_dry_run(kind: str, values: list[str]) -> None:
    if any(value != "All" for value in values):
        shown = ",".join(f'"{value}"' for value in values)
        raise status.invalid_options(
            kind,
            Cause(
                "FieldValueNotSupported",
                f'Unsupported value: [{shown}]: supported values: "All"',
                "dryRun",
            ),
        )
