"""The server's settings: one typed object from flags and NETPOL_ environment variables.

`main` reads it once and logs it; flags beat the environment. All errors are reported at once.
"""

from ipaddress import ip_address
from pathlib import Path

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, CliImplicitFlag, SettingsConfigDict


class Settings(BaseSettings):
    """netpol-apiserver: serve the network policy API of 2016."""

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
        description="Any URL of an SQLite file; default: networkpolicys.sqlite in the state folder"
        " ($STATE_DIRECTORY, or $XDG_STATE_HOME/networkpolicys).",
    )
    etcd_servers: str = Field(
        "", description="etcd endpoints, separated by commas; instead of a database."
    )
    etcd_prefix: str = Field("", description="Put before every key in etcd.")
    etcd_cafile: Path | None = Field(None, description="CA that signed etcd's certificates.")
    etcd_certfile: Path | None = Field(None, description="Client certificate for etcd.")
    etcd_keyfile: Path | None = Field(None, description="Key of the client certificate.")
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
