"""TLS as the server speaks it: its certificate, and whose client certificates it asks for.

A client may send a certificate or none. OpenSSL verifies one against all authorities together, and
ends the handshake where it does not hold; `auth.peer` says later whose it is.
"""

import datetime
import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from apiserver.auth.trust import Trust

YEAR = datetime.timedelta(days=365)
BACK = datetime.timedelta(hours=1)  # a clock that is behind must not find it too new

log = structlog.get_logger()


class Serving(ssl.SSLContext):
    """A context that hands each new connection to the newest one.

    uvicorn takes one context for its whole life, and OpenSSL cannot forget an authority again.
    """

    def __new__(cls, cert: Path, key: Path) -> "Serving":
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert = cert
        self._key = key
        self._now: ssl.SSLContext | None = None

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
            made.load_verify_locations(cadata=authorities)
        self._now = made

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """Called by asyncio for each connection."""
        assert self._now is not None
        return self._now.wrap_bio(*args, **options)


def self_signed(folder: Path, names: Sequence[str]) -> tuple[Path, Path]:
    """The certificate and key in a folder, made where they are missing; for a year."""
    cert, key = folder / "apiserver.crt", folder / "apiserver.key"
    if cert.exists() and key.exists():
        return cert, key
    folder.mkdir(parents=True, exist_ok=True)
    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{names[0]}"[:64])])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACK)
        .not_valid_after(now + YEAR)
        .add_extension(x509.SubjectAlternativeName([_general(n) for n in names]), critical=False)
        # Its own authority, so that it can be the caBundle of an APIService.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(secret, hashes.SHA256())
    )
    _write(
        key,
        secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    _write(cert, made.public_bytes(serialization.Encoding.PEM))
    log.warning("made a self-signed certificate, as none was given", file=str(cert), names=names)
    return cert, key


def own_names(bind_address: str, namespace: str = "") -> list[str]:
    """What the server may be called: its host, loopback, and its Service."""
    names = [socket.gethostname(), "localhost", "127.0.0.1", "::1"]
    if namespace:
        names.insert(0, f"networkpolicys.{namespace}.svc")
    if not ipaddress.ip_address(bind_address).is_unspecified:
        names.append(bind_address)
    return list(dict.fromkeys(names))


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
