"""From a request to what admits it: who asks for what, in the words of an AdmissionReview."""

from collections.abc import Callable

from starlette.types import Scope

from apiserver.admission.chain import Plugins, Review
from apiserver.auth.user import User
from apiserver.http.guard import attributes
from apiserver.http.request_info import RequestInfo

MANAGER = "fieldManager"


class Admission:
    """`plugins` follow the cluster's configurations."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins

    async def reviewing(
        self,
        scope: Scope,
        info: RequestInfo,
        kind: str,
        *,
        dry_run: bool,
        count: Callable[[], int],
    ) -> Review | None:
        """None where no webhook and no quota concerns the request. 503 while that is not known.

        `count` tells how many objects of the resource its namespace has.
        """
        user: User = scope["user"]
        options: dict[str, object] = {"kind": kind, "apiVersion": "meta.k8s.io/v1"}
        if dry_run:
            options["dryRun"] = ["All"]
        if manager := scope["query"].get(MANAGER):
            options[MANAGER] = manager
        review = await self._plugins.concerning(
            user, attributes(scope, info), info.resource, options, dry_run=dry_run, count=count
        )
        if review is not None:
            scope["annotations"] = review.annotations  # of the request's audit
            scope["warnings"] = review.warnings  # also of one that is refused
        return review
