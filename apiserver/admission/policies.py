"""ValidatingAdmissionPolicies of the cluster, their bindings, and what each concerns. Pure.

`admissionregistration.k8s.io/v1`; k8s.io/apiserver `pkg/admission/plugin/policy`. What cannot be
understood is kept as `broken`, for the reason there, and concerns everything: it may have been
there to refuse.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from apiserver.admission import parameters
from apiserver.admission.parameters import Kind, Reference
from apiserver.admission.webhooks import (
    EVERYTHING,
    Rule,
    conditions,
    labels_of,
    rule,
    selector,
    selects,
)
from apiserver.auth.attributes import Attributes
from policy import Selector

MALFORMED = (ValueError, TypeError, AttributeError)

Json = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A write; `namespace` are the labels of its namespace, `objects` the new one and the old.

    There are no labels where the namespace is gone.
    """

    operation: str
    wanted: Attributes
    name: str
    namespace: Mapping[str, str] | None
    objects: Sequence[Json | None]


class NamedRule(NamedTuple):
    """No names stand for all."""

    rule: Rule
    names: frozenset[str]

    def covers(self, asked: Asked) -> bool:
        named = not self.names or asked.name in self.names
        return named and self.rule.covers(asked.operation, asked.wanted)


@dataclass(frozen=True, slots=True)
class Match:
    """`matchConstraints` or `matchResources`; without rules everything is covered."""

    rules: tuple[NamedRule, ...] = ()
    excluded: tuple[NamedRule, ...] = ()
    namespaces: Selector = EVERYTHING
    objects: Selector = EVERYTHING

    def covers(self, asked: Asked) -> bool:
        objects = (obj for obj in asked.objects if obj is not None)
        return (
            any(self.objects.matches(labels_of(obj)) for obj in objects)
            and not any(rule.covers(asked) for rule in self.excluded)
            and (not self.rules or any(rule.covers(asked) for rule in self.rules))
            and selects(self.namespaces, asked.wanted, asked.namespace)
        )


class Validation(NamedTuple):
    """What must hold; `message_expression` and `message` say what is wrong where it does not."""

    expression: str
    message: str
    message_expression: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`fail` is whether an error refuses the request; `kind` what it has parameters of."""

    name: str
    fail: bool
    match: Match = Match()
    conditions: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    validations: tuple[Validation, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    kind: Kind | None = None
    broken: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Puts a policy into force, with the parameters that it refers to."""

    name: str
    policy: str
    match: Match = Match()
    actions: tuple[str, ...] = ()
    reference: Reference | None = None
    broken: str = ""


def parse_policy(found: Json) -> Policy:
    name, spec = _name(found), found.get("spec") or {}
    fail = spec.get("failurePolicy") != "Ignore"
    return _understood(
        lambda: Policy(
            name=name,
            fail=fail,
            match=_match(spec.get("matchConstraints")),
            conditions=conditions(spec),
            variables=_pairs(spec.get("variables"), "name", "expression"),
            validations=tuple(map(_validation, spec.get("validations") or ())),
            annotations=_pairs(spec.get("auditAnnotations"), "key", "valueExpression"),
            kind=parameters.kind(spec.get("paramKind")),
        ),
        lambda why: Policy(name=name, fail=fail, broken=why),
    )


def parse_binding(found: Json) -> Binding:
    name, spec = _name(found), found.get("spec") or {}
    policy = str(spec.get("policyName"))
    return _understood(
        lambda: Binding(
            name=name,
            policy=policy,
            match=_match(spec.get("matchResources")),
            actions=tuple(map(str, spec.get("validationActions") or ())),
            reference=parameters.reference(spec.get("paramRef")),
        ),
        lambda why: Binding(name=name, policy=policy, broken=why),
    )


def in_force(
    policies: Iterable[Policy], bindings: Iterable[Binding]
) -> list[tuple[Policy, list[Binding]]]:
    """Each policy with its bindings; one without any judges nothing."""
    bound: dict[str, list[Binding]] = {}
    for binding in bindings:
        bound.setdefault(binding.policy, []).append(binding)
    return [(policy, bound[policy.name]) for policy in policies if policy.name in bound]


def _understood(parse: Callable[[], T], otherwise: Callable[[str], T]) -> T:
    try:
        return parse()
    except MALFORMED as error:
        return otherwise(str(error))


def _name(found: Json) -> str:
    return str((found.get("metadata") or {}).get("name"))


def _match(found: Json | None) -> Match:
    found = found or {}
    return Match(
        rules=tuple(map(_rule, found.get("resourceRules") or ())),
        excluded=tuple(map(_rule, found.get("excludeResourceRules") or ())),
        namespaces=selector(found.get("namespaceSelector")),
        objects=selector(found.get("objectSelector")),
    )


def _rule(found: Json) -> NamedRule:
    return NamedRule(rule(found), frozenset(found.get("resourceNames") or ()))


def _pairs(found: Iterable[Json] | None, *keys: str) -> tuple[Any, ...]:
    return tuple(tuple(str(item.get(key) or "") for key in keys) for item in found or ())


def _validation(found: Json) -> Validation:
    keys = ("expression", "message", "messageExpression", "reason")
    return Validation(*(str(found.get(key) or "") for key in keys))
