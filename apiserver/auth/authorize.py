"""May they? Always-allowed paths, then `system:masters`, then the cluster's own answer.

`authorization.k8s.io/v1` SubjectAccessReview, asked as k8s.io/apiserver does
(`pkg/server/options/authorization.go`, `plugin/pkg/authorizer/webhook`). Where it cannot be asked,
nothing is allowed.
"""

import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import structlog

from apiserver.auth.attributes import Attributes
from apiserver.auth.reviews import Counted, Kept, review
from apiserver.auth.user import MASTERS, User
from apiserver.cluster.client import Cluster, Refused, Unreachable

PATH = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
KEEP = 10.0  # seconds that an answer holds, for and against
LIMIT = 8192  # answers
LONGEST = 10_000  # bytes of a question whose answer is kept
ALWAYS = ("/healthz", "/readyz", "/livez")

log = structlog.get_logger()


class Undecided(Exception):
    """The cluster could not be asked."""


class Decision(NamedTuple):
    """`reason` is the cluster's, and may be empty."""

    allowed: bool
    reason: str = ""


class Authorizer:
    """`always` are paths that need no permission; a `*` at the end stands for anything."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        always: Sequence[str] = ALWAYS,
        keep_allowed: float = KEEP,
        keep_denied: float = KEEP,
        clock: Callable[[], float] = time.monotonic,
        rand: random.Random,
    ) -> None:
        self._cluster = cluster
        self._exact = frozenset(path for path in always if not path.endswith("*"))
        self._prefixes = tuple(path[:-1] for path in always if path.endswith("*"))
        self._rand = rand

        def seconds(decision: Decision) -> float:
            return keep_allowed if decision.allowed else keep_denied

        self.counted = Counted()
        self._kept: Kept[Decision] = Kept(seconds, limit=LIMIT, clock=clock, counted=self.counted)

    async def authorize(self, user: User, wanted: Attributes) -> Decision:
        """`Undecided`, which is a no that another try may turn into a yes."""
        if wanted.path and (wanted.path in self._exact or wanted.path.startswith(self._prefixes)):
            return Decision(True, "the path is open to all")
        if MASTERS in user.groups:
            return Decision(True, f"the user is in the group {MASTERS}")
        spec = _spec(user, wanted)
        question = json.dumps(spec, sort_keys=True)
        try:
            if len(question) > LONGEST:
                return await self._ask(spec)
            return await self._kept.get(question, lambda: self._ask(spec))
        except (Refused, Unreachable, TimeoutError) as error:
            log.error("the cluster cannot be asked for a permission", error=str(error))
            raise Undecided(str(error)) from error

    async def _ask(self, spec: dict[str, Any]) -> Decision:
        body = {
            "kind": "SubjectAccessReview",
            "apiVersion": "authorization.k8s.io/v1",
            "spec": spec,
        }
        status = await review(self._cluster, PATH, body, self._rand, self.counted)
        allowed = status.get("allowed") is True and not status.get("denied")
        reason = str(status.get("reason") or "")
        if failure := status.get("evaluationError"):
            log.warning("a permission was judged with errors", error=str(failure))
        return Decision(allowed, reason)


def _spec(user: User, wanted: Attributes) -> dict[str, Any]:
    if wanted.resource:
        names = ("namespace", "verb", "group", "version", "resource", "subresource", "name")
        asked: dict[str, Any] = {
            name: getattr(wanted, name) for name in names if getattr(wanted, name)
        }
        for name, terms in (("fieldSelector", wanted.fields), ("labelSelector", wanted.labels)):
            if terms:
                asked[name] = {"requirements": [_required(*term) for term in terms]}
        what = {"resourceAttributes": asked}
    else:
        what = {"nonResourceAttributes": {"path": wanted.path, "verb": wanted.verb}}
    return {"user": user.name, **user.details(), **what}


def _required(key: str, operator: str, values: tuple[str, ...]) -> dict[str, Any]:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}
