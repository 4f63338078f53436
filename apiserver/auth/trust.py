"""Whose certificates and headers are believed, from files and from the cluster; pure.

The cluster publishes it in the ConfigMap `kube-system/extension-apiserver-authentication`; flags
come before that (k8s.io/apiserver `pkg/server/options/authentication.go`).
"""

import json
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

CONFIG_MAP = "extension-apiserver-authentication"
CONFIG_NAMESPACE = "kube-system"

_PEM = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Pool:
    """Certificates of authorities, as PEM and as a set of DER."""

    pem: str = ""
    members: frozenset[bytes] = frozenset()

    @classmethod
    def of(cls, pem: str) -> "Pool":
        """`ValueError` where a text that should hold certificates does not."""
        found = _PEM.findall(pem)
        if pem.strip() and not found:
            raise ValueError("it holds no PEM certificate")
        if found:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
                    cadata="\n".join(found)
                )
            except ssl.SSLError as error:
                raise ValueError(f"a certificate in it cannot be read: {error}") from error
        return cls("\n".join(found), frozenset(map(ssl.PEM_cert_to_DER_cert, found)))

    def __bool__(self) -> bool:
        return bool(self.members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """Who may say in headers who asks: a client certificate of `authorities` with one of `names`.

    No names: any. Header names are lower-case; those of a list count in its order.
    """

    authorities: Pool = field(default_factory=Pool)
    names: frozenset[str] = frozenset()
    username: tuple[str, ...] = ()
    uid: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trust:
    """`clients` signed the certificates that are users themselves."""

    clients: Pool = field(default_factory=Pool)
    proxy: Proxy = field(default_factory=Proxy)

    def over(self, other: "Trust") -> "Trust":
        """This, and what it does not say from the other."""
        proxy = self.proxy if self.proxy.authorities else other.proxy
        return replace(self, clients=self.clients or other.clients, proxy=proxy)

    @classmethod
    def published(cls, data: Mapping[str, str]) -> "Trust":
        """What the ConfigMap says. `ValueError` with the key that cannot be read."""
        proxy = Proxy(
            authorities=_pool(data, "requestheader-client-ca-file"),
            names=frozenset(_list(data, "requestheader-allowed-names")),
            username=_headers(data, "requestheader-username-headers"),
            uid=_headers(data, "requestheader-uid-headers"),
            group=_headers(data, "requestheader-group-headers"),
            extra=_headers(data, "requestheader-extra-headers-prefix"),
        )
        return cls(_pool(data, "client-ca-file"), proxy)


def _pool(data: Mapping[str, str], key: str) -> Pool:
    try:
        return Pool.of(data.get(key, ""))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _list(data: Mapping[str, str], key: str) -> Sequence[str]:
    text = data.get(key, "")
    if not text:
        return ()
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ValueError(f"{key}: {text[:100]!r} is no JSON list of strings")
    return found


def _headers(data: Mapping[str, str], key: str) -> tuple[str, ...]:
    return tuple(name.lower() for name in _list(data, key))
