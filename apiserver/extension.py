"""What makes the server a part of a cluster: users, permissions, namespaces and certificates.

Built from the settings before the application, which gets its guard, its gate and its checks; the
tasks keep all of it up to date while the server runs.
"""

import random
import ssl
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric

from apiserver import files, logs
from apiserver.admission.chain import Plugins
from apiserver.auth.authenticate import Authenticator
from apiserver.auth.authorize import Authorizer
from apiserver.auth.source import Flags, TrustSource
from apiserver.auth.tokens import Tokens
from apiserver.auth.trust import Proxy
from apiserver.cluster.access import Access
from apiserver.cluster.client import Cluster
from apiserver.cluster.events import Recorder
from apiserver.cluster.informer import Informer
from apiserver.http import auth_metrics
from apiserver.http.admission import Admission
from apiserver.http.guard import Guard
from apiserver.registry.cluster_gate import ClusterGate
from apiserver.self_signed import own_names, self_signed
from apiserver.settings import Settings, listed
from apiserver.tls import Pair, Serving

NAMESPACES = "/api/v1/namespaces"


class Extension:
    """`cluster` is asked with the default kubeconfig; each of the reviews may have its own."""

    def __init__(self, settings: Settings, *, rand: random.Random) -> None:
        """`BadAccess`, `OSError`, `ValueError` where a file that is named cannot be used."""
        reached = Reached()
        self.cluster = reached.at(settings.kubeconfig)
        reviewing = reached.at(settings.authentication_kubeconfig or settings.kubeconfig)
        asking = reached.at(settings.authorization_kubeconfig or settings.kubeconfig)
        self._clusters = reached
        self._recorder = Recorder(self.cluster, in_pod=settings.kubeconfig is None)
        logs.listeners.append(self._recorder.take)
        self._trust = TrustSource(
            _flags(settings),
            cluster=None if settings.authentication_skip_lookup else reviewing,
            tolerant=settings.authentication_tolerate_lookup_failure,
        )
        self._namespaces = Informer(self.cluster, NAMESPACES)
        self.serving = _serving(settings, self.cluster.access)
        self.serving.renew(self._trust.now)
        self._trust.on_change(self._renew)
        tokens = Tokens(reviewing, keep=settings.authentication_token_webhook_cache_ttl, rand=rand)
        authorizer = Authorizer(
            asking,
            always=listed(settings.authorization_always_allow_paths),
            keep_allowed=settings.authorization_webhook_cache_authorized_ttl,
            keep_denied=settings.authorization_webhook_cache_unauthorized_ttl,
            rand=rand,
        )
        authenticator = Authenticator(
            trust=lambda: self._trust.now, tokens=tokens, anonymous=settings.anonymous_auth
        )
        self.guard = Guard(authenticator, authorizer)
        self._counted_reviews = tokens.counted, authorizer.counted
        self.gate = ClusterGate(self.cluster, self._namespaces)
        self._plugins = Plugins(
            self.cluster, self._namespaces, find=self.gate.find, authorizer=authorizer
        )
        self.admission = Admission(self._plugins)

    def context(self, *ignored: object) -> ssl.SSLContext:
        """For uvicorn's `ssl_context_factory`."""
        return self.serving

    def checks(self) -> Mapping[str, Callable[[], bool]]:
        """What must hold before requests are taken."""
        return {
            "authentication": lambda: self._trust.ready,
            "namespaces": lambda: self._namespaces.synced,
            "admission": lambda: self._plugins.ready and not self._plugins.lost,
            "cluster": lambda: not self._namespaces.lost,
        }

    def tasks(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """What runs as long as the server does, by name."""
        return {
            "client authorities": self._trust.run(),
            "namespaces": self._namespaces.run(),
            "events": self._recorder.run(),
            **{f"admission {n}": i.run() for n, i in enumerate(self._plugins.informers)},
            "serving certificate": files.follow(
                self.serving.files, self._renew, what="serving certificate"
            ),
        }

    def collect(self) -> Iterator[Metric]:
        """A source for the metrics."""
        return auth_metrics.collect(self.guard, *self._counted_reviews)

    async def close(self) -> None:
        await self._plugins.close()
        await self._clusters.close()

    def _renew(self) -> None:
        self.serving.renew(self._trust.now)


class Reached:
    """One client for each way to reach the cluster."""

    def __init__(self) -> None:
        self._clusters: dict[object, Cluster] = {}

    def at(self, kubeconfig: Any) -> Cluster:
        if kubeconfig not in self._clusters:
            access = Access.from_kubeconfig(kubeconfig) if kubeconfig else Access.in_cluster()
            self._clusters[kubeconfig] = Cluster(access)
        return self._clusters[kubeconfig]

    async def close(self) -> None:
        for cluster in self._clusters.values():
            await cluster.close()


def _flags(settings: Settings) -> Flags:
    def headers(text: str) -> tuple[str, ...]:
        return tuple(name.lower() for name in listed(text))

    return Flags(
        client_ca_file=settings.client_ca_file,
        proxy_ca_file=settings.requestheader_client_ca_file,
        proxy=Proxy(
            names=frozenset(listed(settings.requestheader_allowed_names)),
            username=headers(settings.requestheader_username_headers),
            uid=headers(settings.requestheader_uid_headers),
            group=headers(settings.requestheader_group_headers),
            extra=headers(settings.requestheader_extra_headers_prefix),
        ),
    )


def _serving(settings: Settings, access: Access) -> Serving:
    if settings.tls_cert_file and settings.tls_private_key_file:
        pair = Pair(settings.tls_cert_file, settings.tls_private_key_file)
    else:
        pair = Pair(*self_signed(settings.cert_dir, own_names(settings.host, access.namespace)))
    return Serving(pair, [_named(text) for text in settings.tls_sni_cert_key.split(";") if text])


def _named(text: str) -> Pair:
    """`ValueError` for what is no `cert,key:name,name`."""
    files, _, names = text.partition(":")
    cert, _, key = files.partition(",")
    if not (cert and key and names):
        raise ValueError(
            f"--tls-sni-cert-key: {text!r} is no pair for server names; write"
            " CERT-FILE,KEY-FILE:NAME[,NAME...], and a semicolon before the next pair"
        )
    return Pair(Path(cert), Path(key), tuple(name.lower() for name in listed(names)))
