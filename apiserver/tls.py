"""TLS as the server speaks it: its certificate, and whose client certificates it asks for.

A client may send a certificate or none. OpenSSL verifies one against all authorities together, and
ends the handshake where it does not hold; `auth.peer` says later whose it is.
"""

import ssl
from pathlib import Path
from typing import Any

from apiserver.auth.trust import Trust


class Serving(ssl.SSLContext):
    """A context that hands each new connection to the newest one.

    uvicorn takes one context for its whole life, and OpenSSL cannot forget an authority again.
    """

    def __new__(cls, cert: Path, key: Path) -> "Serving":
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert = cert
        self._key = key
        self.current: ssl.SSLContext | None = None

    @property
    def files(self) -> tuple[Path, Path]:
        return self._cert, self._key

    def renew(self, trust: Trust) -> None:
        """Take files and authorities as they are. `OSError`, `ValueError`: then all stays."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        made.set_alpn_protocols(["http/1.1"])
        # A resumed session would come without the chain of the client's certificate.
        made.options |= ssl.OP_NO_TICKET
        made.num_tickets = 0
        try:
            made.load_cert_chain(self._cert, self._key)
        except ssl.SSLError as error:
            raise ValueError(f"{self._cert}, {self._key}: {error}") from error
        authorities = "\n".join(filter(None, (trust.clients.pem, trust.proxy.authorities.pem)))
        if authorities:
            made.verify_mode = ssl.CERT_OPTIONAL
            # As in Go, whatever is in a pool is an end of chains, also where others signed it.
            made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            made.load_verify_locations(cadata=authorities)
        self.current = made

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """Called by asyncio for each connection."""
        assert self.current is not None
        return self.current.wrap_bio(*args, **options)
