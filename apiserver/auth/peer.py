"""The client's certificate on a connection, which the TLS handshake has verified.

OpenSSL has checked signatures, dates and the purpose `clientAuth`, against the authorities of
clients and of the front proxy together; which of them it was is asked on each request, because
they change while a connection stays.
"""

import hashlib
import ssl
from dataclasses import dataclass
from typing import Any

from apiserver.auth.trust import Pool


@dataclass(frozen=True, slots=True)
class Peer:
    """`chain` is DER, without the certificate itself; `expires` is in Unix seconds."""

    common_name: str
    organizations: tuple[str, ...]
    fingerprint: str
    chain: frozenset[bytes]
    expires: float

    @classmethod
    def of(cls, connection: Any) -> "Peer | None":
        """That of an `ssl.SSLObject`; None where the client sent none."""
        if connection is None or not (found := connection.getpeercert()):
            return None
        chain = _verified(connection)
        if not chain:
            return None  # a resumed session, which the server refuses
        own, *above = chain
        subject = [pair for names in found.get("subject", ()) for pair in names]
        return cls(
            # Of several the last, as Go's pkix.Name.
            common_name=next((v for key, v in reversed(subject) if key == "commonName"), ""),
            organizations=tuple(v for key, v in subject if key == "organizationName"),
            fingerprint=hashlib.sha256(own).hexdigest(),
            chain=frozenset(above),
            expires=ssl.cert_time_to_seconds(found["notAfter"]),
        )

    def signed_by(self, pool: Pool) -> bool:
        return not pool.members.isdisjoint(self.chain)


def _verified(connection: Any) -> list[bytes]:
    """The chain up to the authority that is trusted, as DER.

    Python 3.13 has a method for it; before, it is there under the private object.
    """
    if hasattr(connection, "get_verified_chain"):
        return list(connection.get_verified_chain())
    chain = connection._sslobj.get_verified_chain() or ()
    return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in chain]
