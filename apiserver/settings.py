"""The server's settings: one typed object from flags and NETPOL_ environment variables.

`main` reads it once and logs it; flags beat the environment. All errors are reported at once.
"""

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, CliImplicitFlag, SettingsConfigDict

from apiserver.api import duration, origins


def _seconds(value: object) -> object:
    return duration.parse(value) if isinstance(value, str) else value


AuditMode = Literal["batch", "blocking", "blocking-strict"]
Seconds = Annotated[float, BeforeValidator(_seconds), Ge(0)]


MOST_DAYS = 36_500  # a hundred years: so far back there are dates


class Settings(BaseSettings):
    """Serve the network policy API of 2016. The subcommands migrate, backup and restore look after
    the store, doctor after its place in a cluster; each has a --help."""

    model_config = SettingsConfigDict(
        env_prefix="NETPOL_",
        cli_prog_name="netpol-apiserver",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    standalone: CliImplicitFlag[bool] = Field(
        False, description="Serve plain HTTP on loopback, a world of its own without a cluster."
    )
    bind_address: str = Field(
        "",
        description="Address to listen on; default: all, in standalone mode 127.0.0.1, where only"
        " loopback is taken.",
    )
    secure_port: int = Field(
        8443, ge=0, le=65535, description="Port of HTTPS in a cluster; 0: any free one."
    )
    kubeconfig: Path | None = Field(
        None, description="How to reach the cluster; default: the service account of the pod."
    )
    authentication_kubeconfig: Path | None = Field(
        None, description="Another kubeconfig for tokens and the authentication ConfigMap."
    )
    authorization_kubeconfig: Path | None = Field(
        None, description="Another kubeconfig to ask for permissions."
    )
    authentication_skip_lookup: CliImplicitFlag[bool] = Field(
        False, description="Leave the ConfigMap extension-apiserver-authentication alone."
    )
    authentication_tolerate_lookup_failure: CliImplicitFlag[bool] = Field(
        False, description="Be ready without that ConfigMap; then the front proxy is a stranger."
    )
    authentication_token_webhook_cache_ttl: Seconds = Field(
        10.0, description="How long the answer to a token holds."
    )
    authorization_webhook_cache_authorized_ttl: Seconds = Field(
        10.0, description="How long a permission holds."
    )
    authorization_webhook_cache_unauthorized_ttl: Seconds = Field(
        10.0, description="How long a refusal holds."
    )
    authorization_always_allow_paths: str = Field(
        "/healthz,/readyz,/livez",
        description="Paths that need no permission, separated by commas; a * at the end stands for"
        " anything.",
    )
    anonymous_auth: CliImplicitFlag[bool] = Field(
        True, description="Let requests without credentials be those of system:anonymous."
    )
    tls_cert_file: Path | None = Field(
        None, description="Certificate to serve with, with those that signed it after it."
    )
    tls_private_key_file: Path | None = Field(None, description="Key of that certificate.")
    tls_sni_cert_key: str = Field(
        "",
        description="More certificates, by server name: cert.pem,key.pem:*.example.com,example.com;"
        " a semicolon separates pairs.",
    )
    cert_dir: Path = Field(
        Path("apiserver.local.config/certificates"),
        description="Where a self-signed certificate is kept if none is given.",
    )
    client_ca_file: Path | None = Field(
        None, description="Who signs the certificates of users; default: as the cluster says."
    )
    requestheader_client_ca_file: Path | None = Field(
        None, description="Who signs that of the front proxy; default: as the cluster says."
    )
    requestheader_allowed_names: str = Field(
        "", description="Common names of the front proxy, separated by commas; default: any."
    )
    requestheader_username_headers: str = Field(
        "x-remote-user", description="Headers in which the front proxy names the user."
    )
    requestheader_uid_headers: str = Field(
        "x-remote-uid", description="Headers in which it tells the user's UID."
    )
    requestheader_group_headers: str = Field(
        "x-remote-group", description="Headers in which it names a group each."
    )
    requestheader_extra_headers_prefix: str = Field(
        "x-remote-extra-", description="What headers with more about the user start with."
    )
    insecure_port: int = Field(
        8080, ge=0, le=65535, description="Port of plain HTTP in standalone mode; 0: any free one."
    )
    database_url: str = Field(
        "",
        description="sqlite:////path/to/file or postgresql://user@host/database; default:"
        " networkpolicys.sqlite in the state folder ($STATE_DIRECTORY, or"
        " $XDG_STATE_HOME/networkpolicys).",
    )
    etcd_servers: str = Field(
        "", description="etcd endpoints, separated by commas; instead of a database."
    )
    etcd_prefix: str = Field(
        "/registry", description="Put before every key in etcd, as kube-apiserver's."
    )
    etcd_cafile: Path | None = Field(None, description="CA that signed etcd's certificates.")
    etcd_certfile: Path | None = Field(None, description="Client certificate for etcd.")
    etcd_keyfile: Path | None = Field(None, description="Key of the client certificate.")
    max_requests_inflight: int = Field(
        400, ge=1, description="Reads served at once; beyond it 429. Watches do not count."
    )
    max_mutating_requests_inflight: int = Field(
        200, ge=1, description="Writes served at once; beyond it 429."
    )
    request_timeout: Seconds = Field(
        60.0, description="What a request may take, such as 1m; a write 34s at most. Then 504."
    )
    min_request_timeout: Seconds = Field(
        1800.0,
        description="A watch that asks for no time ends after this to twice this, such as 30m.",
    )
    history_retention: Seconds = Field(
        3600.0,
        description="How long past states are kept, such as 1h: a client that was cut off for less"
        " goes on without a new list.",
    )
    compaction_interval: Seconds = Field(
        300.0,
        description="How often older history is forgotten, by one of the servers; 0: never, where"
        " something else compacts the store.",
    )
    shutdown_delay_duration: Seconds = Field(
        0.0,
        description="How long to serve on, not ready, after SIGTERM: load balancers then leave.",
    )
    cors_allowed_origins: str = Field(
        "",
        description="Sites whose pages may use the server, as regular expressions for their origin,"
        r" such as ^https://.*\.example\.com(:|$), separated by commas; default: none.",
    )
    audit_policy_file: Path | None = Field(
        None,
        description="What is kept of which request (audit.k8s.io/v1 Policy); default: nothing is.",
    )
    audit_log_path: str = Field(
        "", description="File of the audit log, - for standard output; default: none is written."
    )
    audit_log_maxsize: int = Field(
        100, ge=0, description="Megabytes after which that file is put aside; 0: 100."
    )
    audit_log_maxage: int = Field(
        0, ge=0, le=MOST_DAYS, description="Days that files put aside are kept; 0: for ever."
    )
    audit_log_maxbackup: int = Field(
        0, ge=0, description="How many files put aside are kept; 0: all."
    )
    audit_log_format: str = Field(
        "json",
        pattern="^(json|legacy)$",
        description="json: an audit.k8s.io/v1 Event a line; legacy: a line of text.",
    )
    audit_log_mode: AuditMode = Field(
        "batch",
        description="batch: no request waits for the log; blocking: each waits until its events are"
        " written; blocking-strict: it is refused where the first of them cannot be.",
    )
    audit_webhook_config_file: Path | None = Field(
        None, description="A kubeconfig that names the webhook audit events are sent to."
    )
    audit_webhook_mode: AuditMode = Field(
        "batch",
        description="The same for the webhook; in the blocking modes each event goes alone.",
    )
    audit_webhook_initial_backoff: Seconds = Field(
        10.0, description="How long to wait before events that did not arrive are sent again."
    )
    audit_webhook_batch_max_size: int = Field(
        400, ge=1, description="How many events are sent at once, in the mode batch."
    )
    audit_webhook_batch_max_wait: Seconds = Field(
        30.0, description="How long an event waits for others to go with, in the mode batch."
    )
    audit_webhook_batch_buffer_size: int = Field(
        10_000, ge=1, description="How many events wait for the webhook; what comes then is lost."
    )
    log_format: str = Field(
        "text", pattern="^(text|json)$", description="text for people, json for machines."
    )

    @property
    def endpoints(self) -> list[str]:
        return listed(self.etcd_servers)

    @property
    def host(self) -> str:
        return self.bind_address or ("127.0.0.1" if self.standalone else "0.0.0.0")

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        if self.standalone and not ip_address(self.host).is_loopback:
            raise ValueError(
                "--bind-address: standalone mode knows no users: only a loopback address is safe"
            )
        if bool(self.tls_cert_file) != bool(self.tls_private_key_file):
            raise ValueError("--tls-cert-file and --tls-private-key-file go together")
        try:
            origins.parse(listed(self.cors_allowed_origins))
        except ValueError as error:
            raise ValueError(f"--cors-allowed-origins: {error}") from error
        if self.etcd_servers and self.database_url:
            raise ValueError("--etcd-servers and --database-url exclude each other")
        if bool(self.etcd_certfile) != bool(self.etcd_keyfile):
            raise ValueError("--etcd-certfile and --etcd-keyfile go together")
        return self


def listed(text: str) -> list[str]:
    """The parts of a list with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def default_database() -> str:
    """The URL of the SQLite file in the state folder, which is made if need be."""
    state = os.environ.get("STATE_DIRECTORY")
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    folder = Path(state) if state else home / "networkpolicys"
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'networkpolicys.sqlite'}"
