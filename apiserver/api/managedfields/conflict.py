"""What an apply is refused for: fields that others own with another value."""

from collections.abc import Sequence
from dataclasses import dataclass

from apiserver.api import status
from apiserver.api.managedfields import fieldpath
from apiserver.api.managedfields.fieldpath import EMPTY, Path, Set
from apiserver.api.managedfields.managers import UPDATE, Entries, Manager
from apiserver.api.status import Cause

NAMED = "conflict with"


@dataclass(slots=True)
class Conflicts(Exception):
    """The fields that the applied configuration disputes, by manager."""

    disputed: Sequence[tuple[Manager, str, Path]]

    @property
    def fields(self) -> Set:
        return fieldpath.of(*(path for _, _, path in self.disputed))

    def without(self, allowed: Set) -> "Conflicts":
        left = set((self.fields - allowed).paths())
        return Conflicts([item for item in self.disputed if item[2] in left])


def found(entries: Entries, changed: Set, me: Manager) -> Conflicts:
    """What the other managers own of the fields that change."""
    return Conflicts(
        [
            (manager, entry.api_version, path)
            for manager, entry in sorted(entries.items(), key=lambda item: item[0])
            for path in (entry.fields & changed if manager != me else EMPTY).paths()
        ]
    )


def apply_conflict(conflicts: Conflicts) -> status.StatusError:
    """409 with a cause for each field; kubectl looks for the reason of the causes."""
    causes = [
        Cause("FieldManagerConflict", f"{NAMED} {_shown(manager, version)}", fieldpath.text(path))
        for manager, version, path in conflicts.disputed
    ]
    if len(causes) == 1:
        text = f"1 conflict: {causes[0].message}: {causes[0].field}"
    else:
        lines: list[str] = []
        for manager, version, path in conflicts.disputed:
            title = f"conflicts with {_shown(manager, version)}:"
            if title not in lines:
                lines.append(title)
            lines.append(f"- {fieldpath.text(path)}")
        text = f"{len(causes)} conflicts: " + "\n".join(lines)
    return status.StatusError(409, "Conflict", f"Apply failed with {text}", {}, causes)


def _shown(manager: Manager, version: str) -> str:
    text = f'"{manager.name}"'
    if manager.subresource:
        text += f' with subresource "{manager.subresource}"'
    return f"{text} using {version}" if manager.operation == UPDATE else text
