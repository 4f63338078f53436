"""A certificate of the server's own making, for a first start without one."""

import datetime
import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

YEAR = datetime.timedelta(days=365)
LEFT = datetime.timedelta(days=30)  # less than that at a start, and a new one is made
BACK = datetime.timedelta(hours=1)  # a clock that is behind must not find it too new

log = structlog.get_logger()


def self_signed(folder: Path, names: Sequence[str]) -> tuple[Path, Path]:
    """The certificate and key in a folder, made for a year where they are missing or expire."""
    cert, key = folder / "apiserver.crt", folder / "apiserver.key"
    if cert.exists() and key.exists() and _lasts(cert):
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


def _lasts(cert: Path) -> bool:
    try:
        end = x509.load_pem_x509_certificate(cert.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return False
    return end - datetime.datetime.now(datetime.UTC) > LEFT


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
