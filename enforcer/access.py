"""Where an API server is and who we are there: a kubeconfig, a service account, or a plain URL.

Each is read whole, files included, each time it is asked for: a service account's token lives for
an hour, and certificates are replaced in place. `fetch` compares what it gets. The fields are those
of https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/; one that would change how the
server is reached, and that is not supported, is an error and never ignored.
"""

import base64
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SAY_TOKEN = "use token, tokenFile, or client-certificate and client-key"
UNSUPPORTED = {
    "users": {
        "exec": SAY_TOKEN,
        "auth-provider": SAY_TOKEN,
        "username": SAY_TOKEN,
        "as": "give the enforcer's own user the permissions",
    },
    "clusters": {"proxy-url": "name a server that is reached directly"},
}


class BadAccess(Exception):
    """It cannot be used; one line with the file or flag, the field, the reason and a way out."""

    def __init__(self, text: str) -> None:
        # The name of a file may be of several lines.
        super().__init__(" ".join(text.splitlines()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """`server` is a URL; `origin` is the flag or file that all this is from, for messages.

    Without an authority the machine's own are believed. Certificates and key are PEM.
    """

    server: str
    origin: str
    authority: bytes | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    token: str = field(default="", repr=False)
    server_name: str = ""
    insecure: bool = False

    @property
    def connection(self) -> object:
        """Differs where connections have to be made anew; a token goes with each request."""
        return self.server, self.authority, self.certificate, self.key, self.insecure

    def context(self) -> ssl.SSLContext:
        """How TLS is spoken there. `BadAccess` for certificates that cannot be used."""
        authority = "certificate-authority"
        try:
            # Empty would mean the machine's own authorities to the ssl module.
            if self.authority is not None and not self.authority.strip():
                raise ValueError("it holds no certificate")
            context = ssl.create_default_context(
                cadata=self.authority.decode() if self.authority is not None else None
            )
        except ValueError as error:
            raise BadAccess(f"{self.origin}: {authority}: {error}; it has to be PEM") from None
        except ssl.SSLError as error:
            raise BadAccess(
                f"{self.origin}: {authority}: {_why(error)}; it has to be PEM"
            ) from None
        if self.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self.certificate is not None and self.key is not None:
            try:
                _load(context, self.certificate + b"\n" + self.key)
            except (ssl.SSLError, ValueError) as error:
                raise BadAccess(
                    f"{self.origin}: client-certificate and client-key: {_why(error)};"
                    " they have to be PEM, to belong together, and to have no password"
                ) from None
        return context


def from_kubeconfig(path: Path, *, flag: str = "--kubeconfig") -> Access:
    """That of the current context. `BadAccess`."""
    try:
        config = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    except OSError as error:
        raise BadAccess(f"{flag} {path}: {error.strerror}; name a kubeconfig file") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise BadAccess(f"{flag} {path}: it is no YAML: {_why(error)}") from None
    if not isinstance(config, dict):
        raise BadAccess(f"{flag} {path}: it is no kubeconfig, which begins with kind: Config")
    read = _Reader(path, config)
    context = read.named("contexts", "context", read.text(config, "", "current-context"))
    cluster = read.named("clusters", "cluster", read.text(context, "contexts: ", "cluster"))
    user = read.named("users", "user", read.text(context, "contexts: ", "user"))
    authority = read.data(cluster, "clusters: ", "certificate-authority")
    insecure = cluster.get("insecure-skip-tls-verify") is True
    if insecure and authority is not None:
        raise BadAccess(
            f"{path}: clusters: certificate-authority and insecure-skip-tls-verify contradict each"
            " other; remove the latter"
        )
    certificate = read.data(user, "users: ", "client-certificate")
    key = read.data(user, "users: ", "client-key")
    if (certificate is None) != (key is None):
        raise BadAccess(f"{path}: users: client-certificate and client-key go together; name both")
    return Access(
        server=_url(read.text(cluster, "clusters: ", "server"), f"{path}: clusters: server"),
        origin=str(path),
        authority=authority,
        certificate=certificate,
        key=key,
        token=read.token(user),
        server_name=str(cluster.get("tls-server-name") or ""),
        insecure=insecure,
    )


def in_cluster(environ: Mapping[str, str], *, folder: Path = SERVICE_ACCOUNT) -> Access:
    """That of the pod that we are in. `BadAccess` where its files cannot be read."""
    host = environ.get("KUBERNETES_SERVICE_HOST", "")
    port = environ.get("KUBERNETES_SERVICE_PORT", "443")
    address = f"[{host}]" if ":" in host else host
    fix = "mount the token of a service account, or name a file with --kubeconfig"
    token, authority = (
        _bytes(folder / name, "service account", fix) for name in ("token", "ca.crt")
    )
    return Access(
        server=_url(f"https://{address}:{port}", "KUBERNETES_SERVICE_HOST"),
        origin=f"service account {folder}",
        authority=authority,
        token=_token(token, f"service account: {folder / 'token'}"),
    )


def from_url(url: str, *, flag: str = "--server") -> Access:
    """A server that wants no credentials. `BadAccess`."""
    return Access(server=_url(url, flag), origin=flag)


class _Reader:
    """Takes a kubeconfig apart, and says where something is wrong."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self._path = path
        self._config = config

    def named(self, section: str, kind: str, name: str) -> Mapping[str, Any]:
        listed = self._config.get(section)
        entries = listed if isinstance(listed, list) else []
        items = [item for item in entries if isinstance(item, dict)]
        for item in items:
            if item.get("name") == name:
                found = item.get(kind)
                found = found if isinstance(found, dict) else {}
                for unusable, instead in UNSUPPORTED.get(section, {}).items():
                    if found.get(unusable):
                        raise BadAccess(
                            f"{self._path}: {section}: {unusable} is not supported; {instead}"
                        )
                return found
        known = ", ".join(repr(item.get("name")) for item in items) or "none"
        raise BadAccess(f"{self._path}: {section}: there is no {name!r}; there is {known}")

    def text(self, holder: Mapping[str, Any], where: str, key: str) -> str:
        found = holder.get(key)
        if not isinstance(found, str) or not found:
            raise BadAccess(f"{self._path}: {where}{key}: {found!r} is no text; it has to be given")
        return found

    def data(self, holder: Mapping[str, Any], where: str, key: str) -> bytes | None:
        """What stands in the kubeconfig, or in a file, whose name is relative to it."""
        if inline := holder.get(f"{key}-data"):
            try:
                return base64.b64decode(str(inline), validate=True)
            except ValueError as error:
                raise BadAccess(
                    f"{self._path}: {where}{key}-data: it is no base64: {error}; give PEM in"
                    f" base64, or the name of a file as {key}"
                ) from None
        if not holder.get(key):
            return None
        return _bytes(self._path.parent / str(holder[key]), f"{self._path}: {where}{key}")

    def token(self, user: Mapping[str, Any]) -> str:
        """As with kubectl, a file wins over a token that is written down."""
        where = f"{self._path}: users"
        if file := user.get("tokenFile"):
            path = self._path.parent / str(file)
            return _token(_bytes(path, f"{where}: tokenFile"), f"{where}: tokenFile: {path}")
        if token := user.get("token"):
            return _token(str(token).encode(), f"{where}: token")
        return ""


def _bytes(path: Path, what: str, fix: str = "it has to be there") -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise BadAccess(f"{what}: {path}: {_why(error)}; {fix}") from None


def _token(content: bytes, what: str) -> str:
    """Only what a header can carry; the token itself is in no message."""
    try:
        token = content.decode("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise BadAccess(f"{what}: it holds no token; a token is one word of printable ASCII")
    return token


def _url(value: str, what: str) -> str:
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise BadAccess(f"{what}: {value!r} is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not host or not value.isprintable() or " " in value:
        raise BadAccess(f"{what}: {value!r} is no URL of a server; write https://HOST:PORT")
    if parts.query or parts.fragment or parts.username:
        raise BadAccess(f"{what}: {value!r} has more than an address; write https://HOST:PORT")
    return value.rstrip("/")


def _load(context: ssl.SSLContext, content: bytes) -> None:
    """The ssl module takes files only. This one is in memory, so no folder has to be writable."""
    handle = os.memfd_create("client.pem", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(handle), "wb") as file:
            file.write(content)
        context.load_cert_chain(f"/proc/self/fd/{handle}", password=lambda: b"")
    finally:
        os.close(handle)


def _why(error: Exception) -> str:
    """An error in one line."""
    reason = next(
        (
            found
            for name in ("reason", "problem", "strerror")
            if (found := getattr(error, name, None))
        ),
        error,
    )
    mark = getattr(error, "problem_mark", None)
    line = f"line {mark.line + 1}: " if mark is not None else ""
    return line + " ".join(str(reason).split())
