"""A resource definition: the one description that discovery, OpenAPI, tables and routes read.

The registry keeps the table of definitions that a server serves; nothing here stores or validates.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
STATUS_VERBS = ("get", "patch", "update")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`; `cell` reads an object and the present time (Unix seconds)."""

    name: str
    description: str
    cell: Callable[[Mapping[str, Any], float], str | int | None]
    type: str = "string"
    format: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Resource:
    """One served resource. `group` is empty for the core group; `schema` names its definition.

    `indexed` are the paths to scalars, `.spec.nodeName`, by which many objects are selected.
    """

    group: str
    version: str
    plural: str
    singular: str
    kind: str
    namespaced: bool
    schema: str
    columns: tuple[Column, ...]
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    status: bool = False
    indexed: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def list_kind(self) -> str:
        return self.kind + "List"

    @property
    def qualified(self) -> str:
        """The name that messages use: `networkpolicys.net.alpha.kubernetes.io`, `pods`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified_kind(self) -> str:
        return f"{self.kind}.{self.group}" if self.group else self.kind

    @property
    def root(self) -> str:
        """The URL of the group version, without a trailing slash."""
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"

    @property
    def prefix(self) -> str:
        """The storage prefix of all objects, laid out as kube-apiserver lays out a CRD's."""
        middle = f"{self.group}/{self.plural}" if self.group else self.plural
        return f"/{middle}/"
