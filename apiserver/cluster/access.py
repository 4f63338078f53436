"""Where the cluster's API server is and who we are there: a kubeconfig, or the service account.

Files are read again when they change: a service account's token lives for an hour.
"""

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class BadAccess(Exception):
    """The kubeconfig cannot be used; the text names the file, the field and the reason."""


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes that stand in the kubeconfig, or in a file that it names."""

    content: bytes = b""
    path: Path | None = None

    def read(self) -> bytes:
        return self.path.read_bytes() if self.path else self.content


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """`server` is a URL. Without an authority the machine's own are believed."""

    server: str
    authority: Data | None = None
    certificate: Data | None = None
    key: Data | None = None
    token: Data | None = None
    server_name: str = ""
    insecure: bool = False
    namespace: str = "default"

    @classmethod
    def from_kubeconfig(cls, path: Path) -> "Access":
        """That of the current context. `BadAccess`."""
        try:
            config = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise BadAccess(f"{path}: {error}") from error
        if not isinstance(config, dict):
            raise BadAccess(f"{path}: it is no kubeconfig")
        read = _Reader(path, config)
        context = read.named("contexts", read.text(config, "current-context"), "context")
        cluster = read.named("clusters", read.text(context, "cluster"), "cluster")
        user = read.named("users", read.text(context, "user"), "user")
        for unusable in ("exec", "auth-provider"):
            if unusable in user:
                raise BadAccess(f"{path}: users: {unusable} is not supported; use a token or files")
        certificate, key = (read.data(user, name) for name in ("client-certificate", "client-key"))
        if (certificate is None) != (key is None):
            raise BadAccess(f"{path}: users: client-certificate and client-key go together")
        token = Data(str(user["token"]).encode()) if user.get("token") else None
        if user.get("tokenFile"):
            token = Data(path=read.file(user["tokenFile"]))
        return cls(
            server=read.text(cluster, "server").rstrip("/"),
            authority=read.data(cluster, "certificate-authority"),
            certificate=certificate,
            key=key,
            token=token,
            server_name=str(cluster.get("tls-server-name") or ""),
            insecure=bool(cluster.get("insecure-skip-tls-verify")),
            namespace=str(context.get("namespace") or "default"),
        )

    @classmethod
    def in_cluster(cls, folder: Path = SERVICE_ACCOUNT) -> "Access":
        """That of the pod that we are in. `BadAccess` where we are in none."""
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT"))
        if not (host and port and (folder / "token").exists()):
            raise BadAccess("this is no pod of a cluster: name a kubeconfig file with --kubeconfig")
        address = f"[{host}]" if ":" in host else host
        namespace = folder / "namespace"
        return cls(
            server=f"https://{address}:{port}",
            authority=Data(path=folder / "ca.crt"),
            token=Data(path=folder / "token"),
            namespace=namespace.read_text().strip() if namespace.exists() else "default",
        )

    def contents(self) -> tuple[bytes, ...]:
        """Certificates, key and authorities as they are. `OSError`."""
        parts = (self.authority, self.certificate, self.key)
        return tuple(part.read() for part in parts if part is not None)

    def context(self) -> ssl.SSLContext:
        """How TLS is spoken there. `OSError`, `ValueError` for files that cannot be used."""
        authority = self.authority.read().decode() if self.authority else None
        if authority is not None and not authority.strip():
            raise ValueError("the cluster's certificate authority is empty")
        context = ssl.create_default_context(cadata=authority)
        if self.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self.certificate is not None and self.key is not None:
            # The ssl module takes files only; nobody but us may read these.
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "client.pem"
                file.touch(mode=0o600)
                file.write_bytes(self.certificate.read() + b"\n" + self.key.read())
                context.load_cert_chain(file)
        return context


class _Reader:
    """Takes a kubeconfig apart, and says where something is wrong."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self._path = path
        self._config = config

    def named(self, section: str, name: str, kind: str) -> Mapping[str, Any]:
        for item in self._config.get(section) or ():
            if isinstance(item, dict) and item.get("name") == name:
                found = item.get(kind)
                return found if isinstance(found, dict) else {}
        raise BadAccess(f"{self._path}: {section} has no {name!r}")

    def text(self, holder: Mapping[str, Any], key: str) -> str:
        found = holder.get(key)
        if not isinstance(found, str) or not found:
            raise BadAccess(f"{self._path}: {key} is missing or empty")
        return found

    def file(self, name: object) -> Path:
        """Relative names start from the kubeconfig's own folder, as for kubectl."""
        return self._path.parent / str(name)

    def data(self, holder: Mapping[str, Any], key: str) -> Data | None:
        if inline := holder.get(f"{key}-data"):
            try:
                return Data(base64.b64decode(str(inline), validate=True))
            except binascii.Error as error:
                raise BadAccess(f"{self._path}: {key}-data: {error}") from error
        return Data(path=self.file(holder[key])) if holder.get(key) else None
