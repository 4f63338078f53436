"""The server's settings: one typed object from flags and NETPOL_ environment variables.

`main` reads it once and logs it; flags beat the environment. All errors are reported at once.
"""

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from annotated_types import Ge
from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, CliImplicitFlag, SettingsConfigDict

from apiserver.api import duration


def _seconds(value: object) -> object:
    return duration.parse(value) if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(_seconds), Ge(0)]


class Settings(BaseSettings):
    """Serve the network policy API of 2016. The subcommands migrate, backup and restore look after
    the store; each has a --help."""

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
        "127.0.0.1", description="Address to listen on; standalone mode takes loopback only."
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
    log_format: str = Field(
        "text", pattern="^(text|json)$", description="text for people, json for machines."
    )

    @property
    def endpoints(self) -> list[str]:
        return [part.strip() for part in self.etcd_servers.split(",") if part.strip()]

    @field_validator("bind_address")
    @classmethod
    def _loopback(cls, value: str) -> str:
        if not ip_address(value).is_loopback:
            raise ValueError("standalone mode knows no users: only a loopback address is safe")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        if not self.standalone:
            raise ValueError("--standalone is required: this version serves no other mode")
        if self.etcd_servers and self.database_url:
            raise ValueError("--etcd-servers and --database-url exclude each other")
        if bool(self.etcd_certfile) != bool(self.etcd_keyfile):
            raise ValueError("--etcd-certfile and --etcd-keyfile go together")
        return self


def default_database() -> str:
    """The URL of the SQLite file in the state folder, which is made if need be."""
    state = os.environ.get("STATE_DIRECTORY")
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    folder = Path(state) if state else home / "networkpolicys"
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'networkpolicys.sqlite'}"
