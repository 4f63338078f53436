"""TLS as the server speaks it: its certificate, and whose client certificates it asks for.

A client may send a certificate or none. OpenSSL verifies one against all authorities together, and
ends the handshake where it does not hold; `auth.peer` says later whose it is.
"""

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from apiserver.auth.trust import Trust


class Pair(NamedTuple):
    """A certificate with its key, for the server names that fit one of the patterns.

    A `*` at the start of a pattern stands for one label. No patterns: for all other names.
    """

    cert: Path
    key: Path
    patterns: tuple[str, ...] = ()

    def fits(self, name: str) -> bool:
        return any(
            name == pattern or (pattern[:2] == "*." and name.partition(".")[2] == pattern[2:])
            for pattern in self.patterns
        )


class Serving(ssl.SSLContext):
    """A context that hands each new connection to the newest one.

    uvicorn takes one context for its whole life, and OpenSSL cannot forget an authority again.
    """

    def __new__(cls, pair: Pair, named: Sequence[Pair] = ()) -> "Serving":
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, pair: Pair, named: Sequence[Pair] = ()) -> None:
        """The first of the `named` pairs that fits what a client asks for comes before `pair`."""
        self._pairs = (pair, *named)
        self._contexts: tuple[ssl.SSLContext, ...] = ()

    @property
    def files(self) -> list[Path]:
        return [path for pair in self._pairs for path in (pair.cert, pair.key)]

    def renew(self, trust: Trust) -> None:
        """Take files and authorities as they are. `OSError`, `ValueError`: then all stays."""
        contexts = tuple(_context(pair, trust) for pair in self._pairs)

        def choose(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            for pair, other in zip(self._pairs[1:], contexts[1:], strict=True):
                if name is not None and pair.fits(name.lower()):
                    connection.context = other
                    return

        contexts[0].sni_callback = choose
        self._contexts = contexts

    def up_to_date(self, context: ssl.SSLContext | None) -> bool:
        """Whether a connection would be made as it was."""
        return context in self._contexts

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """Called by asyncio for each connection."""
        return self._contexts[0].wrap_bio(*args, **options)


def _context(pair: Pair, trust: Trust) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    # A resumed session would come without the chain of the client's certificate.
    made.options |= ssl.OP_NO_TICKET
    made.num_tickets = 0
    try:
        made.load_cert_chain(pair.cert, pair.key)
    except ssl.SSLError as error:
        raise ValueError(f"{pair.cert}, {pair.key}: {error}") from error
    authorities = "\n".join(filter(None, (trust.clients.pem, trust.proxy.authorities.pem)))
    if authorities:
        made.verify_mode = ssl.CERT_OPTIONAL
        # As in Go, whatever is in a pool is an end of chains, also where others signed it.
        made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        made.load_verify_locations(cadata=authorities)
    return made
