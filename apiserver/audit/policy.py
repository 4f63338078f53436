"""What is kept of a request: the audit policy file, and the first of its rules that matches.

Pure but for `read`; k8s.io/apiserver `pkg/audit/policy` and `pkg/apis/audit/validation`. A field
that no policy has is refused, where kube-apiserver passes over it: a rule whose `userGroups` is
misspelt would match everybody.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from apiserver.api import status, strict
from apiserver.auth.attributes import Attributes
from apiserver.auth.user import User

Level = Literal["None", "Metadata", "Request", "RequestResponse"]
Stage = Literal["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"]
GROUP = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
EITHER = "rules cannot apply to both regular resources and non-resource URLs"


class BadPolicy(ValueError):
    """The policy cannot be used; the text names the file, and each field with value and reason."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is kept of one request."""

    level: Level = "None"
    omitted: frozenset[str] = frozenset()  # stages
    managed_fields: bool = True

    @property
    def requests(self) -> bool:
        """Whether the object of the request is kept."""
        return self.level in ("Request", "RequestResponse")

    @property
    def responses(self) -> bool:
        """Whether the object of the response is kept."""
        return self.level == "RequestResponse"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, alias_generator=to_camel)


class GroupResources(_Part):
    """Resources of one API group, "" being the core group."""

    group: str = ""
    resources: tuple[str, ...] = ()
    resource_names: tuple[str, ...] = ()

    def match(self, wanted: Attributes) -> bool:
        if self.group != wanted.group:
            return False
        if not self.resources:
            return True
        if self.resource_names and wanted.name not in self.resource_names:
            return False
        whole = wanted.resource
        spellings = {"*", f"{whole}/*"}
        if wanted.subresource:
            whole = f"{whole}/{wanted.subresource}"
            spellings.add(f"*/{wanted.subresource}")
        return not {*spellings, whole}.isdisjoint(self.resources)


class Rule(_Part):
    """Matches a request that every one of its fields matches; an empty one matches all."""

    level: Level
    users: tuple[str, ...] = ()
    user_groups: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    resources: tuple[GroupResources, ...] = ()
    namespaces: tuple[str, ...] = ()
    non_resource_urls: tuple[str, ...] = Field((), alias="nonResourceURLs")
    omit_stages: tuple[Stage, ...] = ()
    omit_managed_fields: bool | None = None

    def match(self, user: User | None, wanted: Attributes) -> bool:
        """`user` is None where nobody was authenticated."""
        if self.users and (user is None or user.name not in self.users):
            return False
        if self.user_groups and (user is None or set(self.user_groups).isdisjoint(user.groups)):
            return False
        if self.verbs and wanted.verb not in self.verbs:
            return False
        if self.namespaces or self.resources:
            return self._of_resource(wanted)
        return not self.non_resource_urls or (
            not wanted.resource and any(_covers(url, wanted.path) for url in self.non_resource_urls)
        )

    def _of_resource(self, wanted: Attributes) -> bool:
        if not wanted.resource or (self.namespaces and wanted.namespace not in self.namespaces):
            return False
        return not self.resources or any(entry.match(wanted) for entry in self.resources)


class _File(_Part):
    api_version: Literal["audit.k8s.io/v1"]
    kind: Literal["Policy"]
    metadata: dict[str, Any] = Field(default_factory=dict)
    rules: tuple[Rule, ...] = Field(min_length=1)
    omit_stages: tuple[Stage, ...] = ()
    omit_managed_fields: bool = False


class Policy:
    """Rules in order, each with what it says of a request."""

    def __init__(self, file: _File) -> None:
        self._rules = [(rule, _ruling(rule, file)) for rule in file.rules]

    def judge(self, user: User | None, wanted: Attributes) -> Ruling:
        """By the first rule that matches; without one nothing is kept."""
        return next((made for rule, made in self._rules if rule.match(user, wanted)), NOTHING)


NOTHING = Ruling()


def read(path: Path) -> Policy:
    """`BadPolicy`; `OSError` where the file cannot be read."""
    return parse(path.read_bytes(), str(path))


def parse(data: bytes, name: str) -> Policy:
    """A policy in YAML or JSON; `name` is what its file is called in a `BadPolicy`."""
    try:
        found, doubled = strict.decode_yaml(data)
    except status.StatusError as error:
        raise BadPolicy(f"{name}: {error}") from error
    if doubled:
        raise BadPolicy(f"{name}: {'; '.join(doubled)}")
    try:
        file = _File.model_validate_json(orjson.dumps(_said(found)))
    except ValidationError as error:
        raise BadPolicy(f"{name}: {'; '.join(map(_problem, error.errors()))}") from error
    if problems := list(_problems(file)):
        raise BadPolicy(f"{name}: {'; '.join(problems)}")
    return Policy(file)


def _ruling(rule: Rule, file: _File) -> Ruling:
    own = rule.omit_managed_fields
    omitted = file.omit_managed_fields if own is None else own
    stages: Collection[str] = (*file.omit_stages, *rule.omit_stages)
    return Ruling(rule.level, frozenset(stages), managed_fields=not omitted)


def _covers(url: str, path: str) -> bool:
    return url == path or (url.endswith("*") and path.startswith(url.rstrip("*")))


def _said(value: Any) -> Any:
    """Without fields that are null: to Go they are not there."""
    if isinstance(value, dict):
        return {key: _said(item) for key, item in value.items() if item is not None}
    return [_said(item) for item in value] if isinstance(value, list) else value


def _problem(error: Any) -> str:
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
    if error["type"] in ("missing", "extra_forbidden"):
        why = {"missing": "Required value", "extra_forbidden": "unknown field"}[error["type"]]
        return f"{field.lstrip('.')}: {why}"
    return _invalid(field.lstrip(".") or "policy", error["input"], error["msg"])


def _problems(file: _File) -> Iterator[str]:
    """What the types of the fields do not say."""
    for number, rule in enumerate(file.rules):
        field = f"rules[{number}]"
        for index, url in enumerate(rule.non_resource_urls):
            where = f"{field}.nonResourceURLs[{index}]"
            if url != "*" and not url.startswith("/"):
                yield _invalid(where, url, "non-resource URL rules must begin with a '/' character")
            if "*" in url[:-1]:
                why = "non-resource URL wildcards '*' must be the final character of the rule"
                yield _invalid(where, url, why)
        for index, entry in enumerate(rule.resources):
            where = f"{field}.resources[{index}]"
            if entry.group and not GROUP.fullmatch(entry.group):
                why = "must be a DNS subdomain in lower case, without a version"
                yield _invalid(f"{where}.group", entry.group, why)
            if entry.resource_names and not entry.resources:
                why = "using resourceNames requires at least one resource"
                yield _invalid(f"{where}.resourceNames", entry.resource_names, why)
        if rule.non_resource_urls and (rule.resources or rule.namespaces):
            yield _invalid(f"{field}.nonResourceURLs", rule.non_resource_urls, EITHER)


def _invalid(field: str, value: Any, why: str) -> str:
    return f"{field}: Invalid value: {orjson.dumps(value, default=str).decode()}: {why}"
