"""What a write passes before it is stored: webhooks that change it, quotas, policies and webhooks.

k8s.io/apiserver `pkg/admission/plugin/webhook`: those that change are asked one after the other,
and once more where they wish, after another has changed the object; those that judge all at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from apiserver.admission import conditions, judge, policies, quota, webhooks
from apiserver.admission.call import Answer, Caller, Failed
from apiserver.admission.cel.evaluator import Budget, Evaluator, Outcome, Result
from apiserver.admission.cel.evaluator import Failed as Unevaluated
from apiserver.admission.cel.job import Task
from apiserver.admission.parameters import Parameters
from apiserver.admission.policies import Asked, Binding, Policy
from apiserver.admission.webhooks import Webhook, labels_of
from apiserver.api import json_patch, status
from apiserver.api.identity import new_uid
from apiserver.api.resource import Resource
from apiserver.auth.attributes import Attributes
from apiserver.auth.authorize import Authorizer
from apiserver.auth.user import User
from apiserver.cluster.client import Cluster
from apiserver.cluster.informer import Informer

ROOT = "/apis/admissionregistration.k8s.io/v1"
MUTATING = f"{ROOT}/mutatingwebhookconfigurations"
VALIDATING = f"{ROOT}/validatingwebhookconfigurations"
POLICIES = f"{ROOT}/validatingadmissionpolicies"
BINDINGS = f"{ROOT}/validatingadmissionpolicybindings"
QUOTAS = "/api/v1/resourcequotas"

log = structlog.get_logger()

Json = dict[str, Any]


class Plugins:
    """The plugins with what they follow of the cluster."""

    def __init__(
        self,
        cluster: Cluster,
        namespaces: Informer,
        *,
        find: Callable[[str], Awaitable[Mapping[str, Any] | None]],
        authorizer: Authorizer,
    ) -> None:
        """`find` looks a namespace up; expressions may ask the authorizer."""
        self._find = find
        self._mutating = _Configurations(cluster, MUTATING)
        self._validating = _Configurations(cluster, VALIDATING)
        self._policies = _Policies(cluster)
        self._quotas = Informer(cluster, QUOTAS)
        self._namespaces = namespaces
        self._caller = Caller()
        self._evaluator = Evaluator(authorizer)
        self._parameters = Parameters(cluster)

    @property
    def informers(self) -> tuple[Informer, ...]:
        configurations = self._mutating.informer, self._validating.informer
        return *configurations, *self._policies.informers, self._quotas

    @property
    def ready(self) -> bool:
        return all(informer.synced for informer in (*self.informers, self._namespaces))

    @property
    def lost(self) -> bool:
        """Whether what is known of them may be old."""
        return any(informer.lost for informer in self.informers)

    async def concerning(
        self,
        user: User,
        wanted: Attributes,
        resource: Resource,
        options: Json,
        *,
        dry_run: bool,
        count: Callable[[], int],
    ) -> "Review | None":
        """What admits one request; None where nothing is there to. 503 while that is not known.

        `count` tells how many objects of the resource its namespace has.
        """
        if not self.ready:
            raise status.unavailable(
                "the webhooks, policies and quotas of the cluster are not known yet"
            )
        quotas = [
            found
            for key, found in self._quotas.objects.items()
            if key.startswith(f"{wanted.namespace}/")
        ]
        in_force = self._policies.in_force
        if not (self._mutating.webhooks or self._validating.webhooks or in_force or quotas):
            return None
        return Review(
            user=user,
            wanted=wanted,
            resource=resource,
            options=options,
            dry_run=dry_run,
            mutating=self._mutating.webhooks,
            validating=self._validating.webhooks,
            policies=in_force,
            namespace=await self._namespace(wanted.namespace),
            quotas=quotas,
            count=count,
            caller=self._caller,
            evaluator=self._evaluator,
            parameters=self._parameters,
        )

    async def close(self) -> None:
        await self._caller.close()
        await self._evaluator.close()

    async def _namespace(self, name: str) -> Mapping[str, Any] | None:
        """By whose labels webhooks and policies choose; one too new to be known is looked up."""
        return await self._find(name) if name else None


class _Policies:
    """Clusters before Kubernetes 1.30 have none."""

    def __init__(self, cluster: Cluster) -> None:
        self.informers = tuple(
            Informer(cluster, path, optional=True, changed=self._read)
            for path in (POLICIES, BINDINGS)
        )
        self.in_force: list[tuple[Policy, list[Binding]]] = []

    def _read(self) -> None:
        found, bound = ([obj for _, obj in sorted(i.objects.items())] for i in self.informers)
        self.in_force = policies.in_force(
            map(policies.parse_policy, found), map(policies.parse_binding, bound)
        )


class _Configurations:
    """The webhooks of all configurations of a kind, in the order of their names."""

    def __init__(self, cluster: Cluster, path: str) -> None:
        self.informer = Informer(cluster, path, changed=self._read)
        self.webhooks: list[Webhook] = []

    def _read(self) -> None:
        found: list[Webhook] = []
        for _, configuration in sorted(self.informer.objects.items()):
            found += webhooks.parse(configuration)
        for webhook in found:
            if webhook.broken:
                log.error(
                    "a webhook cannot be understood; it is asked of everything, and fails",
                    webhook=webhook.name,
                    error=webhook.broken,
                    reason="BadWebhook",
                )
        self.webhooks = found


@dataclass(slots=True, kw_only=True)
class Review:
    """The admission of one request; `warnings` and `annotations` are what webhooks said."""

    user: User
    wanted: Attributes
    resource: Resource
    options: Json
    dry_run: bool
    mutating: Sequence[Webhook]
    validating: Sequence[Webhook]
    policies: Sequence[tuple[Policy, Sequence[Binding]]]
    namespace: Mapping[str, Any] | None
    quotas: Sequence[Mapping[str, Any]]
    count: Callable[[], int]
    caller: Caller
    evaluator: Evaluator
    parameters: Parameters
    warnings: list[str] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)

    async def mutate(self, operation: str, name: str, obj: Json | None, old: Json | None) -> Json:
        """The object as the webhooks want it; for a delete nothing can change."""
        self.budget = Budget()  # each object has its own, where there are many
        asked: list[int] = []
        changed_after: set[int] = set()
        for index, webhook in enumerate(self.mutating):
            if not await self._concerned([webhook], operation, name, obj, old):
                continue
            patched = await self._patched(webhook, operation, name, obj, old)
            if patched != obj:
                changed_after |= {*asked}
                obj = patched
            asked.append(index)
        for index in asked:
            webhook = self.mutating[index]
            again = webhook.reinvoke and index in changed_after
            if again and await self._concerned([webhook], operation, name, obj, old):
                obj = await self._patched(webhook, operation, name, obj, old)
        return obj or {}

    async def validate(self, operation: str, name: str, obj: Json | None, old: Json | None) -> None:
        """Raise where a quota, a policy or a webhook is against it."""
        if operation == "CREATE":
            quota.check(self.quotas, self.resource, name, self.count)
        if self.policies:
            await self._judge(operation, name, obj, old)
        concerned = await self._concerned(self.validating, operation, name, obj, old)
        answers = await asyncio.gather(
            *(self._ask(webhook, operation, name, obj, old) for webhook in concerned),
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer

    async def _judge(self, operation: str, name: str, obj: Json | None, old: Json | None) -> None:
        asked = Asked(
            operation=operation,
            wanted=self.wanted,
            name=name,
            namespace=self._labels(),
            objects=(obj, old),
        )
        variables = conditions.variables(self._request(operation, name, obj, old), self.namespace)
        outcome = await judge.judge(
            self.policies,
            asked,
            variables,
            self.user,
            self.evaluator,
            self.parameters,
            self.budget,
        )
        self.warnings += outcome.warnings
        self.annotations |= outcome.annotations
        outcome.check(self.resource, name)

    async def _concerned(
        self,
        found: Sequence[Webhook],
        operation: str,
        name: str,
        obj: Json | None,
        old: Json | None,
    ) -> list[Webhook]:
        """403 where that cannot be told of one whose policy is to fail; 404 without a namespace."""
        labels = self._labels()
        covering = [
            webhook
            for webhook in found
            if webhook.concerns(operation, self.wanted, labels, (obj, old))
        ]
        tasks = [Task(webhook.conditions) for webhook in covering]
        if not any(task.conditions for task in tasks):
            return covering
        variables = conditions.variables(self._request(operation, name, obj, old))
        try:
            outcomes = await self.evaluator.evaluate(tasks, variables, self.user, self.budget)
        except Unevaluated as error:
            outcomes = [
                Outcome([Result(error=str(error))] * len(task.conditions), []) for task in tasks
            ]
        return [
            webhook
            for webhook, outcome in zip(covering, outcomes, strict=True)
            if self._matches(webhook, outcome.conditions, name)
        ]

    def _labels(self) -> Mapping[str, str] | None:
        return None if self.namespace is None else labels_of(self.namespace)

    def _matches(self, webhook: Webhook, results: Sequence[Result], name: str) -> bool:
        """403 where that cannot be told, and its policy is to fail."""
        try:
            return conditions.judged(webhook.conditions, results)
        except conditions.Erred as error:
            log.warning(
                "failed evaluating match conditions",
                webhook=webhook.name,
                configuration=webhook.configuration,
                error=str(error),
                ignored=not webhook.fail,
                reason="FailedMatchConditions",
            )
            if webhook.fail:
                raise status.forbidden(self.resource, name, str(error)) from error
            return False

    async def _patched(
        self, webhook: Webhook, operation: str, name: str, obj: Json | None, old: Json | None
    ) -> Json | None:
        answer = await self._ask(webhook, operation, name, obj, old)
        if answer is None or not answer.patch or obj is None:
            return obj
        try:
            patched: Json = json_patch.json_patch(obj, answer.patch)
        except status.StatusError as error:
            raise status.internal(f'webhook "{webhook.name}": {error.message}') from error
        if not isinstance(patched, dict) or not isinstance(patched.get("metadata"), dict):
            raise status.internal(f'webhook "{webhook.name}" left no object')
        return patched

    async def _ask(
        self, webhook: Webhook, operation: str, name: str, obj: Json | None, old: Json | None
    ) -> Answer | None:
        """None where it cannot be asked, and that is no reason against the request."""
        if self.dry_run and webhook.side_effects:
            raise status.bad_request(f"admission webhook {webhook.name!r} does not support dry run")
        try:
            answer = await self.caller.ask(webhook, self._request(operation, name, obj, old))
        except Failed as failure:
            log.warning(
                "failed calling webhook",
                webhook=webhook.name,
                configuration=webhook.configuration,
                error=str(failure),
                ignored=not webhook.fail,
                reason="FailedCallingWebhook",
            )
            if webhook.fail:
                raise status.internal(
                    f'failed calling webhook "{webhook.name}": failed to call webhook: {failure}'
                ) from failure
            return None
        self.warnings += answer.warnings
        for key, value in answer.annotations.items():
            self.annotations[f"{webhook.name}/{key}"] = str(value)
        if not answer.allowed:
            raise _denied(webhook, answer)
        return answer

    def _request(self, operation: str, name: str, obj: Json | None, old: Json | None) -> Json:
        kind = {
            "group": self.resource.group,
            "version": self.resource.version,
            "kind": self.resource.kind,
        }
        resource = {
            "group": self.resource.group,
            "version": self.resource.version,
            "resource": self.resource.plural,
        }
        below = self.wanted.subresource
        return {
            "uid": new_uid(),
            "kind": kind,
            "resource": resource,
            "requestKind": kind,
            "requestResource": resource,
            **({"subResource": below, "requestSubResource": below} if below else {}),
            "name": name,
            "namespace": self.wanted.namespace,
            "operation": operation,
            "userInfo": {"username": self.user.name, **self.user.details()},
            "object": obj,
            "oldObject": old,
            "dryRun": self.dry_run,
            "options": self.options,
        }


def _denied(webhook: Webhook, answer: Answer) -> status.StatusError:
    why = answer.message or answer.reason
    text = f'admission webhook "{webhook.name}" denied the request'
    code = answer.code if 400 <= answer.code < 600 else 403
    message = f"{text}: {why}" if why else f"{text} without explanation"
    return status.StatusError(code, answer.reason or "Forbidden", message)
