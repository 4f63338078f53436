"""What Prometheus reads of users and permissions, under upstream's names.

k8s.io/apiserver `pkg/endpoints/filters/metrics.go` and `pkg/server/options` (delegated requests).
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric

from apiserver.auth.reviews import Counted
from apiserver.http.guard import Guard


def collect(guard: Guard, authn: Counted, authz: Counted) -> Iterator[Metric]:
    """`authn` and `authz` count what the cluster was asked, by the code of its answer."""
    for name, help, label, counts in (
        ("authentication_attempts", "Requests by whether their user is known.", "result",
         guard.attempts),
        ("authenticated_user_requests", "Requests of known users, by kind of user.", "username",
         guard.users),
        ("apiserver_authorization_decisions", "Requests by whether they are allowed.", "decision",
         guard.decisions),
        ("apiserver_delegated_authn_request", "TokenReviews by code.", "code", authn.codes),
        ("apiserver_delegated_authz_request", "SubjectAccessReviews by code.", "code",
         authz.codes),
        ("authentication_token_cache_request", "Tokens by whether they were remembered.",
         "status", authn.cache),
    ):  # fmt: skip
        family = CounterMetricFamily(name, help, labels=(label,))
        for value, number in list(counts.items()):
            family.add_metric((value,), number)
        yield family
