"""The files that say who we are to etcd, and whom we take for it."""

import ssl
import tempfile
from pathlib import Path
from typing import NamedTuple

import grpc


class CredentialFiles(NamedTuple):
    """In PEM; a certificate goes together with its key."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for path in self if path is not None)

    def read(self) -> grpc.ChannelCredentials | None:
        """None without files. `OSError`, `ValueError` where they hold no authority and no pair."""
        if not self.paths:
            return None
        ca, cert, key = (None if path is None else path.read_bytes() for path in self)
        self._check(ca, cert, key)
        return grpc.ssl_channel_credentials(ca, key, cert)

    def _check(self, ca: bytes | None, cert: bytes | None, key: bytes | None) -> None:
        """gRPC takes anything, and says later that it cannot connect.

        What was read is looked at, because the files may be others by now; OpenSSL takes files.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with tempfile.TemporaryDirectory() as folder:  # of our user alone
            file = Path(folder) / "pem"
            wrong = self.paths[:1]
            try:
                if ca is not None:
                    file.write_bytes(ca)
                    context.load_verify_locations(file)
                if cert is not None and key is not None:
                    wrong = self.paths[-2:]
                    file.write_bytes(cert + b"\n" + key)
                    context.load_cert_chain(file, password=lambda: "")  # nobody could be asked
            except ssl.SSLError as error:
                raise ValueError(f"{', '.join(map(str, wrong))}: {error}") from error
