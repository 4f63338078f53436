"""What the cluster's ValidatingAdmissionPolicies say to a write.

k8s.io/apiserver `pkg/admission/plugin/policy/validating`, `dispatcher.go` and `validator.go`: every
policy is evaluated, warnings and annotations of all of them count, and the first that denies tells
why.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import structlog

from apiserver.admission import conditions
from apiserver.admission.cel.evaluator import Budget, Evaluator, Failed, Result
from apiserver.admission.cel.evaluator import Outcome as Evaluated
from apiserver.admission.cel.job import Task
from apiserver.admission.parameters import Parameters, Unknown
from apiserver.admission.policies import Asked, Binding, Policy, Validation
from apiserver.api import builtin, status
from apiserver.api.resource import Resource
from apiserver.auth.user import User

CODES = {"Unauthorized": 401, "Forbidden": 403, "RequestEntityTooLarge": 413, "Invalid": 422}
LONGEST_MESSAGE = 5 << 10  # bytes of a messageExpression's value
LONGEST_ANNOTATION = 10 << 10
FAILURE = "validation.policy.admission.k8s.io/validation_failure"

log = structlog.get_logger()

Json = dict[str, Any]


class Denial(NamedTuple):
    """`position` is that of the validation."""

    message: str
    reason: str = ""
    position: int = 0


class Verdict(NamedTuple):
    """Of one policy; `failures` are of its audit annotations, and no action softens them."""

    denials: Sequence[Denial] = ()
    annotations: Sequence[tuple[str, str]] = ()
    failures: Sequence[Denial] = ()


@dataclass(slots=True)
class Outcome:
    """Of all of them."""

    denied: list[tuple[str, Denial]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)

    def check(self, resource: Resource, name: str) -> None:
        """Raise where one denied it."""
        for who, denial in self.denied[:1]:
            message = f"{who} denied request: {denial.message}"
            refusal = status.forbidden(resource, name, message, [status.Cause("", message)])
            refusal.reason = denial.reason or "Invalid"
            refusal.code = CODES.get(refusal.reason, 422)
            raise refusal


class _Part(NamedTuple):
    """A policy with a binding and one of its parameters; `task` is the position of what it asks.

    One with a text in the place of that cannot be evaluated, for that reason.
    """

    policy: Policy
    binding: Binding | None
    task: int | str


async def judge(
    in_force: Sequence[tuple[Policy, Sequence[Binding]]],
    asked: Asked,
    variables: Json,
    user: User,
    evaluator: Evaluator,
    parameters: Parameters,
    budget: Budget,
) -> Outcome:
    """`variables` are those of `conditions`. All of them are evaluated in one job."""
    parts, tasks, params = await _parts(in_force, asked, parameters)
    try:
        found = await evaluator.evaluate(tasks, variables, user, budget, params=params)
    except Failed as error:
        verdicts = {
            part.task: Verdict(_failed(part.policy, str(error)))
            for part in parts
            if isinstance(part.task, int)
        }
    else:
        verdicts = {
            part.task: _verdict(part.policy, found[part.task])
            for part in {part.task: part for part in parts}.values()
            if isinstance(part.task, int)
        }
    outcome = Outcome()
    noted: dict[str, list[str]] = {}
    for part in parts:
        if isinstance(part.task, str):
            _misconfigured(outcome, part.policy, part.binding, part.task)
            continue
        assert part.binding is not None
        verdict = verdicts[part.task]
        _act(outcome, part.policy, part.binding, verdict)
        for key, value in verdict.annotations:
            values = noted.setdefault(f"{part.policy.name}/{key}", [])
            if value not in values:
                values.append(value)
    outcome.annotations |= {key: ", ".join(values) for key, values in noted.items()}
    return outcome


async def _parts(
    in_force: Sequence[tuple[Policy, Sequence[Binding]]], asked: Asked, parameters: Parameters
) -> tuple[list[_Part], list[Task], list[Any]]:
    """With the tasks and the parameters that they speak of; what is the same is there once."""
    parts: list[_Part] = []
    tasks: list[Task] = []
    params: list[Any] = []
    positions: dict[object, int] = {}
    read: dict[object, Sequence[Any]] = {}
    for policy, bindings in in_force:
        if not policy.match.covers(asked):
            continue
        if policy.broken:
            parts.append(_Part(policy, None, policy.broken))
            continue
        for binding in bindings:
            if not binding.match.covers(asked):
                continue
            if asked.wanted.namespace and asked.namespace is None:  # it is shown to expressions
                raise status.not_found(builtin.NAMESPACES, asked.wanted.namespace)
            reference = binding.reference if policy.kind else None
            which = (policy.kind, reference) if reference else None
            try:
                if binding.broken:
                    raise Unknown(binding.broken)
                if which not in read:
                    read[which] = await parameters.find(
                        policy.kind, reference, asked.wanted.namespace
                    )
            except Unknown as error:
                parts.append(_Part(policy, binding, str(error)))
                continue
            for number, found in enumerate(read[which]):
                place = positions.setdefault((which, number), len(params))
                if place == len(params):
                    params.append(found)
                task = positions.setdefault((policy.name, place), len(tasks))
                if task == len(tasks):
                    tasks.append(_task(policy, place))
                parts.append(_Part(policy, binding, task))
    return parts, tasks, params


def _task(policy: Policy, params: int) -> Task:
    messages = (found.message_expression for found in _with_messages(policy))
    expressions = (
        *(found.expression for found in policy.validations),
        *messages,
        *(expression for _, expression in policy.annotations),
    )
    return Task(policy.conditions, expressions, policy.variables, params)


def _with_messages(policy: Policy) -> list[Validation]:
    return [found for found in policy.validations if found.message_expression]


def _misconfigured(outcome: Outcome, policy: Policy, binding: Binding | None, why: str) -> None:
    what = f"failed to configure {'policy' if binding is None else 'binding'}: {why}"
    log.error(
        "a policy cannot be evaluated",
        policy=policy.name,
        binding=binding.name if binding else "",
        error=what,
        ignored=not policy.fail,
        reason="BadAdmissionPolicy",
    )
    if policy.fail:
        outcome.denied.append((_who(policy, binding), Denial(what)))


def _who(policy: Policy, binding: Binding | None) -> str:
    who = f"ValidatingAdmissionPolicy '{policy.name}'"
    return f"{who} with binding '{binding.name}'" if binding else who


def _act(outcome: Outcome, policy: Policy, binding: Binding, verdict: Verdict) -> None:
    who = _who(policy, binding)
    for denial in verdict.denials:
        if "Deny" in binding.actions:
            outcome.denied.append((who, denial))
        if "Audit" in binding.actions:
            outcome.annotations.setdefault(FAILURE, _failure(policy, binding, denial))
        if "Warn" in binding.actions:
            outcome.warnings.append(f"Validation failed for {who}: {denial.message}")
    outcome.denied += [(who, failure) for failure in verdict.failures]


def _failure(policy: Policy, binding: Binding, denial: Denial) -> str:
    found = {
        "message": denial.message,
        "policy": policy.name,
        "binding": binding.name,
        "expressionIndex": denial.position,
        "validationActions": list(binding.actions),
    }
    return json.dumps([found], separators=(",", ":"), ensure_ascii=False)


def _verdict(policy: Policy, found: Evaluated) -> Verdict:
    try:
        if not conditions.judged(policy.conditions, found.conditions):
            return Verdict()
    except conditions.Erred as error:
        return Verdict(_failed(policy, str(error)))
    results, messages = found.results, _with_messages(policy)
    judged = results[: len(policy.validations)]
    said = dict(zip(messages, results[len(judged) :], strict=False))
    denials: list[Denial] = []
    for index, (validation, result) in enumerate(zip(policy.validations, judged, strict=True)):
        if isinstance(result.value, bool):
            if not result.value:
                message = _message(validation, said.get(validation, Result()))
                denials.append(Denial(message, validation.reason, index))
        else:
            denials += _failed(policy, conditions.error(validation.expression, result), index)
    noted, failures = _annotations(policy, results[len(judged) + len(messages) :])
    return Verdict(denials, noted, failures)


def _failed(policy: Policy, why: str, index: int = 0) -> list[Denial]:
    log.warning(
        "failed evaluating a policy", policy=policy.name, error=why, ignored=not policy.fail,
        reason="FailedAdmissionPolicy",
    )  # fmt: skip
    return [Denial(why, position=index)] if policy.fail else []


def _message(validation: Validation, said: Result) -> str:
    """What the expression for it gives, else what is written, else the expression that failed."""
    text = said.value.strip() if isinstance(said.value, str) else ""
    if len(text.encode()) > LONGEST_MESSAGE or "\n" in text:
        text = ""
    written = validation.message.strip()
    return text or written or f"failed expression: {validation.expression.strip()}"


def _annotations(
    policy: Policy, results: Sequence[Result]
) -> tuple[list[tuple[str, str]], list[Denial]]:
    noted: list[tuple[str, str]] = []
    failures: list[Denial] = []
    for (key, expression), result in zip(policy.annotations, results, strict=True):
        if result.error:
            failures += _failed(policy, result.error)
        elif isinstance(result.value, str):
            if value := result.value.strip():
                noted.append((key, value[:LONGEST_ANNOTATION]))
        elif result.value is not None:
            failures.append(
                Denial(
                    f"valueExpression '{expression}' resulted in unsupported return type."
                    " Return type must be either string or null."
                )
            )
    return noted, failures
